// node ab-update.js DIRECTORY IMAGE SHA256 SIZE ROOTHASH: an updater with two slots. The image goes into the slot
// that is not in use; dm-verity opens it by its root hash (SIZE bytes of data, and the hash tree after them); it is
// read to its end; and then one rename makes it the current one. Whatever fails before leaves the current one.
import { execFileSync } from 'node:child_process'
import { readlink, rename, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { createImage, mapFile, openMapping } from 'dmloop'

const [directory, from, sha256, size, rootHash] = process.argv.slice(2)
if (!directory || !from || !sha256 || !size || !rootHash)
  throw new Error('usage: node ab-update.js DIRECTORY IMAGE SHA256 SIZE ROOTHASH')
const run = (command: string, ...args: string[]): void =>
  void execFileSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] })

const current = join(directory, 'current')
const inUse = await readlink(current).catch(() => 'b.img')
const slot = join(directory, inUse === 'a.img' ? 'b.img' : 'a.img')

// The slot may still be mapped from before the last update.
await openMapping(slot).then(
  (old) => old.unmap(),
  () => undefined,
)
await createImage(slot, { from, sha256, overwrite: true })
console.log(`${from} is in ${slot}`)

const device = await mapFile(slot, { readOnly: true, udevScan: false })
try {
  const verified = `${device.name}-verified`
  const where = [device.path, verified, device.path, rootHash, `--hash-offset=${size}`]
  run('veritysetup', 'open', ...where)
  try {
    // dm-verity checks what is read.
    run('dd', `if=/dev/mapper/${verified}`, 'of=/dev/null', 'bs=1M', 'iflag=direct', 'status=none')
  } finally {
    run('veritysetup', 'close', verified)
  }
} finally {
  await device.unmap()
}

// A symbolic link cannot be changed, but it can be replaced in one step.
const next = `${current}.next`
await rm(next, { force: true })
await symlink(slot.slice(directory.length + 1), next)
await rename(next, current)
console.log(`${current} is ${slot}`)
