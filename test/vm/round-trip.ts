// There and back: what is read and written through the device is what the file holds.
import { createHash } from 'node:crypto'
import { closeSync, fsyncSync, openSync, readFileSync, statSync, writeSync } from 'node:fs'
import type { Test } from 'tap'
import { mapFile, type MapOptions } from 'dmloop'
import { below, sha256 } from './lab.js'

const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** Writes random blocks through the device, and the same into the bytes that the file had. */
function scribble(path: string, bytes: Buffer, random: () => number): void {
  const device = openSync(path, 'r+')
  const blocks = bytes.length / 512
  for (let i = 0; i < Math.min(blocks, 200); i++) {
    const start = below(random, blocks)
    const count = 1 + below(random, Math.min(16, blocks - start))
    const data = Buffer.from(Array.from({ length: count * 512 }, () => below(random, 256)))
    writeSync(device, data, 0, data.length, start * 512)
    data.copy(bytes, start * 512)
  }
  fsyncSync(device)
  closeSync(device)
}

/**
 * Maps a file, reads it through the device, writes to it there, and reads the file after unmap: each
 * time the bytes are those that they should be; `head` is how many bytes at the start of the file are not mapped.
 * Returns how many segments the device had.
 */
export async function roundTrip(
  t: Test,
  file: string,
  options: MapOptions,
  random: () => number,
  head = 0,
): Promise<number> {
  const contentOf = (): Buffer => readFileSync(file).subarray(head)
  const content = contentOf()
  const original = digest(content)
  const device = await mapFile(file, options)
  const { path, size, segmentCount } = device
  const read = await sha256(path, size)
  scribble(path, content, random)
  const wrote = await sha256(path, size)
  const check = await device.verify()
  await device.unmap()
  t.strictSame(
    { size, read, wrote, after: digest(contentOf()), check },
    {
      size: statSync(file).size - head,
      read: original,
      wrote: digest(content),
      after: digest(content),
      check: { ok: true, problems: [] },
    },
    `${size} bytes in ${segmentCount} segments`,
  )
  return segmentCount
}
