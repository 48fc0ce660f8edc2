// node vm-disk.js IMAGE [OPTION ...]: runs a virtual machine whose disk is an image, past the host's filesystem. The
// options are qemu's. Exits with its exit status.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mapFile, provisionFile } from 'dmloop'

const [image, ...options] = process.argv.slice(2)
if (image === undefined) throw new Error('usage: node vm-disk.js IMAGE [OPTION ...]')

// Images of virtual machines are mostly sparse.
await provisionFile(image)
await using disk = await mapFile(image, { udevScan: false })
const drive = `file=${disk.path},format=raw,if=virtio,cache=none`
const vm = spawn('qemu-system-x86_64', ['-drive', drive, ...options], { stdio: 'inherit' })
const [status] = (await once(vm, 'exit')) as [number | null]
process.exitCode = status ?? 1
