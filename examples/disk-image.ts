// node disk-image.js IMAGE [DIRECTORY]: takes a disk image apart, mounts its root partition on a directory (by
// default /mnt) for as long as the shell runs that it starts there, and puts everything away again.
import { execFileSync, spawnSync } from 'node:child_process'
import { mapFile } from 'dmloop'

const [image, directory = '/mnt'] = process.argv.slice(2)
if (image === undefined) throw new Error('usage: node disk-image.js IMAGE [DIRECTORY]')

/** Linux roots of x86-64 and arm64 (the Discoverable Partitions Specification). */
const ROOTS = ['4f68bce3-e8cd-4db1-96e7-fbcaf984b709', 'b921b045-1df0-41c3-af44-4c6f280d3fae']

await using disk = await mapFile(image, { partitions: true, backend: 'auto', udevScan: true })
for (const { number, path, size, type = '', name = '' } of disk.partitions)
  console.log(`${number}: ${path}, ${size / 2 ** 20} MiB, ${type} ${name}`)
for (const { message } of disk.partitionProblems) console.warn(message)

const largestFirst = disk.partitions.toSorted((a, b) => b.size - a.size)
const root = largestFirst.find(({ type = '' }) => ROOTS.includes(type)) ?? largestFirst[0]
if (!root) throw new Error(`${image} has no partitions`)
execFileSync('mount', [root.path, directory])
try {
  console.log(`${root.path} is on ${directory}`)
  spawnSync(process.env.SHELL ?? '/bin/sh', { cwd: directory, stdio: 'inherit' })
} finally {
  execFileSync('umount', [directory])
}
