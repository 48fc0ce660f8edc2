// How partition devices are named, and how partx is read.
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { parsePartitionUuid, partitionName, partitionUuid } from '#lib/kernel/kpartx.js'
import { readPartitionTable } from '#lib/kernel/partition-table.js'
import { runTool } from '#lib/kernel/tool.js'
import { DEFAULT_WAIT } from '#lib/kernel/wait.js'

await t.test('names and UUIDs', (t) => {
  t.equal(partitionName('disk', 1), 'disk1')
  t.equal(partitionName('disk2', 1), 'disk2p1')
  t.equal(partitionName('disk.img-1', 12), 'disk.img-1p12')
  t.equal(partitionUuid(12, 'DMLOOP-8-1-h01'), 'part12-DMLOOP-8-1-h01')
  t.strictSame(parsePartitionUuid('part12-DMLOOP-8-1-h01'), {
    number: 12,
    parent: 'DMLOOP-8-1-h01',
  })
  t.strictSame(parsePartitionUuid('part1-part2-x'), { number: 1, parent: 'part2-x' })
  for (const uuid of ['', 'DMLOOP-8-1-h01', 'part-x', 'part1-', 'xpart1-x', 'part1']) {
    t.equal(parsePartitionUuid(uuid), undefined, uuid)
  }
  t.end()
})

/** Reads what a program prints in the place of partx. */
async function read(script: string) {
  const folder = mkdtempSync(join(tmpdir(), 'dmloop-'))
  const { PATH } = process.env
  try {
    writeFileSync(join(folder, 'partx'), `#!/bin/sh\n${script}\n`)
    chmodSync(join(folder, 'partx'), 0o755)
    process.env.PATH = `${folder}:${PATH}`
    return await readPartitionTable('/dev/x', 512, DEFAULT_WAIT)
  } finally {
    process.env.PATH = PATH
    rmSync(folder, { recursive: true })
  }
}

const NONE = 'echo "partx: /dev/x: failed to read partition table" >&2; exit 1'

await t.test('the table that partx prints', async (t) => {
  const line =
    'NR="5" START="63" SECTORS="2" TYPE="0x5" UUID="ab-05" NAME="a\\x22\\x5c=\\xc3\\xa9" SCHEME="dos"'
  const { entries, isDamaged } = await read(
    `[ "$1" != --type ] || { ${NONE}; }; printf '%s\\n' '${line}'`,
  )
  t.equal(isDamaged, false)
  t.strictSame(entries, [
    {
      number: 5,
      start: 63 * 512,
      size: 1024,
      type: '0x5',
      uuid: 'ab-05',
      name: 'a"\\=é',
      isExtended: true,
    },
  ])
  t.strictSame(await read(NONE), { entries: [], isDamaged: false }, 'no table')
  t.strictSame(await read('exit 0'), { entries: [], isDamaged: false }, 'an empty one')
  const pmbr = `[ "$1" != --type ] || { ${NONE}; }`
  t.strictSame(await read(pmbr), { entries: [], isDamaged: true }, 'a protective MBR alone')
  await t.rejects(read('echo "cannot open" >&2; exit 1'), { message: 'cannot open' })
})

await t.test('programs that are not there, or do not end', async (t) => {
  await t.rejects(runTool('no-such-program', [], 'none', DEFAULT_WAIT), { code: 'DMLOOP_NO_TOOL' })
  await t.rejects(runTool('sleep', ['60'], 'coreutils', { timeout: 0, signal: undefined }), {
    code: 'DMLOOP_TIMEOUT',
  })
  const reason = new Error('enough')
  const signal = AbortSignal.abort(reason)
  await t.rejects(runTool('sleep', ['60'], 'coreutils', { timeout: 0, signal }), reason)
  const abort = new AbortController()
  setTimeout(() => abort.abort(reason), 50)
  const limit = { timeout: 10_000, signal: abort.signal }
  await t.rejects(runTool('sleep', ['60'], 'coreutils', limit), reason)
  t.match(await runTool('sh', ['-c', 'echo $LC_ALL; exit 3'], 'dash', DEFAULT_WAIT), {
    status: 3,
    stdout: 'C\n',
  })
})
