// plan-between-marks.js FILE: plans a file, with a mark for strace before and after it.
import { existsSync } from 'node:fs'
import { planFile } from 'dmloop'

const [file = ''] = process.argv.slice(2)
existsSync('/mark/begin')
await planFile(file)
existsSync('/mark/end')
