// node wrap.js DEVICE: a disk of one's own, wrapped so that files on it can be mapped. All that is on the
// device is lost.
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { mapFile, wrapDevice } from 'dmloop'

const [disk] = process.argv.slice(2)
if (disk === undefined) throw new Error('usage: node wrap.js DEVICE')
const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
const mountPoint = '/run/dmloop-example'

// The filesystem goes on the wrapper, and leaves the disk to device-mapper.
const wrapped = await wrapDevice(disk, { name: 'wrapped' })
console.log(`${disk} is ${wrapped.path}`)
run('mkfs.ext4', '-q', '-F', wrapped.path)
mkdirSync(mountPoint, { recursive: true })
run('mount', wrapped.path, mountPoint)

const image = `${mountPoint}/disk.img`
writeFileSync(image, randomBytes(8 << 20))
const device = await mapFile(image)
console.log(`${image} is ${device.path}:`)
console.log(run('dmsetup', 'table', device.name).trimEnd())
const { ok } = await device.verify({ content: 'full' })
console.log(ok ? 'device and file are the same' : 'device and file differ')

await device.unmap()
run('umount', mountPoint)
await wrapped.unmap()
console.log(`${disk} is itself again`)
