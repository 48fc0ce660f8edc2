// The native half's own checks (test/tools/native-check.cc).
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const PROGRAM = fileURLToPath(new URL('../../../build/Release/native-check', import.meta.url))
t.match(execFileSync(PROGRAM, { encoding: 'utf8' }), /agree with their models/)
