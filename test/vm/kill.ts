// node kill.js FILESYSTEM [loop]: SIGKILL between any two system calls of mapFile and of unmap that change
// something. Whatever is left, the next call finds it, and completes or undoes it.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { listMappings, mapFile, openMapping, releaseFile, type DmloopError } from 'dmloop'
import {
  deviceNames,
  fileState,
  fragmentedFile,
  leftFiles,
  makeHost,
  oneSegment,
  sh,
} from './lab.js'

const [filesystem = 'ext4', loop] = process.argv.slice(2)
const backend = loop === 'loop' ? 'loop' : 'linear'
const KILL_AT = fileURLToPath(new URL('../../../build/Release/kill-at', import.meta.url))
const PROGRAM = fileURLToPath(new URL('killed.js', import.meta.url))

const host = makeHost(filesystem, oneSegment(), { mkfs: filesystem === 'f2fs' ? '-q' : '' })
const file = `${host.path}/image`
fragmentedFile(file, 256 << 10, 8, 1)

/** Kills a process at a call; what kill-at says of it. */
function killAt(call: number, verb: string): string {
  // One worker thread, so that the calls come in one order.
  const env = { ...process.env, UV_THREADPOOL_SIZE: '1' }
  const args = [String(call), process.execPath, PROGRAM, verb, file, backend]
  return execFileSync(KILL_AT, args, { env, encoding: 'utf8' }).trim()
}

/** The two ways back. */
const RECOVERIES: Record<string, () => Promise<void>> = {
  async 'listMappings, unmap, releaseFile'() {
    for (const device of await listMappings()) await device.unmap()
    await releaseFile(file)
  },
  async 'mapFile, unmap'() {
    const device = await mapFile(file, { backend }).catch((error: unknown) => {
      if ((error as DmloopError).code === 'DMLOOP_ALREADY_MAPPED') return openMapping(file)
      throw error
    })
    t.match(await device.verify({ content: 'full' }), { ok: true }, 'the mapping is whole')
    await device.unmap()
  },
}

const WAYS = Object.entries(RECOVERIES)
/** Each call is followed by one way back; on the next filesystem, by the other. */
const turn = ['ext4', 'xfs', 'f2fs'].indexOf(filesystem)

for (const verb of ['map', 'unmap']) {
  await t.test(`${verb}, killed at each call`, async (t) => {
    const before = `${fileState(file)}${sh(`getfattr -d -m - ${file}`)}`
    let call = 1
    for (; ; call++) {
      if (verb === 'unmap') await mapFile(file, { backend })
      const killed = killAt(call, verb)
      const [way, recover] = WAYS[(call + turn) % WAYS.length] as (typeof WAYS)[number]
      await recover()
      const clean = {
        file: `${fileState(file)}${sh(`getfattr -d -m - ${file}`)}`,
        devices: deviceNames(),
        left: leftFiles(),
        loops: sh('losetup -l --noheadings'),
      }
      const expected = { file: before, devices: [host.name], left: [], loops: '' }
      t.strictSame(clean, expected, `${call}: ${killed}; ${way}`)
      if (killed.endsWith('in all')) break
    }
    t.ok(call > (verb === 'map' && backend === 'linear' ? 12 : 7), `${call - 1} calls`)
  })
}
host.remove()
