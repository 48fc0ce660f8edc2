// The command from plan to unmap: in a pipe and on a terminal, with JSON, stopped by signals, and every class
// of failure with its exit status.
import { closeSync, openSync } from 'node:fs'
import t, { type Test } from 'tap'
import { dmloop, inShell, json, onTerminal, signalAt } from './command-line.js'
import {
  deviceNames,
  fileState,
  fragmentedFile,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  sh,
} from './lab.js'

const host = makeHost('ext4', oneSegment(), { name: 'host' })
const image = `${host.path}/disk.img`
fragmentedFile(image, 24 << 20, 40, 1)
sh(`rm -f ${host.path}/.filler`)
const small = `${host.path}/small.img`
randomFile(small, 1 << 20)
const DONE = { status: 0, stdout: '', stderr: '' }
const state = fileState(image)

const clean = (t: Test): void => {
  t.strictSame(deviceNames(), ['host'], 'no device is left')
  t.strictSame(leftFiles(), [], 'nothing else either')
  t.equal(fileState(image), state, 'the file is as it was')
}

await t.test('the life of a mapping', (t) => {
  const plan = dmloop('plan', image)
  t.match(plan, { status: 0, stderr: '' })
  t.match(plan.stdout, /^\/tmp\/host\/disk.img: 24 MiB on ext4, \/dev\/mapper\/host/)
  t.match(plan.stdout, /\n {2}[.+#]{78}\n/)
  t.match(plan.stdout, /\d+ extents +largest .* smallest .*\n +\d+ segments +largest/)
  t.match(plan.stdout, 'can be mapped: a device-mapper device of 24 MiB')
  const terminal = onTerminal('plan', image)
  t.match(terminal, { status: 0, shown: /[░▒█]/ }, 'drawn with blocks on a terminal')

  const table = dmloop('plan', '--table', image).stdout
  t.match(dmloop('map', image), { status: 0, stdout: '/dev/mapper/disk.img\n', stderr: '' })
  t.equal(sh('dmsetup table disk.img'), table, 'the table that plan has printed')

  const list = dmloop('list')
  t.match(list, { status: 0, stderr: '' })
  t.match(list.stdout, /^NAME +PATH +SIZE +RO +BACKEND +SEGMENTS +FILES\n/)
  t.match(
    list.stdout,
    /\ndisk.img +\/dev\/mapper\/disk.img +24M +0 +linear +\d+ +\/tmp\/host\/disk.img\n$/,
  )
  t.equal(dmloop('list', '-n', image).stdout, dmloop('list', '-n').stdout, 'by its file')
  t.match(inShell('dmloop list | head -1; echo ${PIPESTATUS[0]}'), {
    stdout: /^NAME.*\n0\n/,
    stderr: '',
  })
  for (const operand of ['disk.img', '/dev/mapper/disk.img', image]) {
    t.match(dmloop('verify', operand), { ...DONE, stdout: `${operand}: ok\n` }, operand)
  }
  t.match(dmloop('unmap', 'disk.img'), DONE)
  t.match(dmloop('release', image), DONE, 'there is nothing to release')
  t.match(dmloop('list'), DONE)
  clean(t)
  t.end()
})

await t.test('for scripts', (t) => {
  t.match(
    inShell(
      `dev=$(dmloop map --name=x ${small}) && blockdev --getsize64 "$dev" && dmloop unmap "$dev"`,
    ),
    { status: 0, stdout: `${1 << 20}\n`, stderr: '' },
  )
  t.match(json(t, 0, 'plan', image), { size: 24 << 20, problems: [], files: [{ path: image }] })
  const device = { name: 'disk.img', path: '/dev/mapper/disk.img', size: 24 << 20, files: [image] }
  t.match(json(t, 0, 'map', image), device)
  t.match(json(t, 0, 'list'), { mappings: [device] })
  t.match(json(t, 0, 'verify', '--content=full', image), {
    results: [{ operand: image, device, ok: true, problems: [] }],
  })
  t.match(json(t, 1, 'unmap', 'none', 'disk.img'), {
    results: [
      { operand: 'none', error: { code: 'DMLOOP_NOT_MAPPED' } },
      { operand: 'disk.img', device },
    ],
  })
  t.match(json(t, 0, 'list'), { mappings: [] })
  t.match(json(t, 0, 'release', image, small), { results: [{ operand: image, ok: true }, {}] })
  t.match(json(t, 0, 'wrap', '/dev/ram1', 'whole'), { name: 'whole', files: [] })
  t.match(json(t, 0, 'unmap', '--all'), { results: [{ operand: 'whole' }] })
  clean(t)
  t.end()
})

await t.test('options', (t) => {
  const words = ['-r', '-o', '4K', '--sizelimit=64KiB', '--guard=none', '--name=part']
  t.match(json(t, 0, 'map', ...words, small), { name: 'part', readOnly: true, size: 65536 })
  t.match(dmloop('list', '-nb').stdout, / 65536 +1 +linear /)
  t.match(dmloop('unmap', 'part'), DONE)
  const both = dmloop('map', '--backend=loop', '-b', '4096', '--name=both', image, small)
  t.match(both, { status: 0, stdout: '/dev/mapper/both\n', stderr: '' }, 'two files')
  t.match(json(t, 0, 'list'), {
    mappings: [{ backend: 'loop', size: 25 << 20, files: [image, small] }],
  })
  t.match(dmloop('unmap', small), DONE, 'by its second file')
  sh(`truncate -s 64K ${host.path}/hole`)
  const auto = dmloop('map', '--backend=auto', '--name=auto', `${host.path}/hole`)
  t.match(auto, {
    status: 0,
    stdout: /^\/dev\/loop\d+\n$/,
    stderr: /loop device, because:\n.*hole/,
  })
  t.match(dmloop('unmap', 'auto'), DONE)
  clean(t)
  t.end()
})

await t.test('progress on a terminal, and none in a pipe', (t) => {
  const { status, shown } = onTerminal('map', '--verify=full', image)
  t.equal(status, 0)
  t.match(shown, /Kcomparing +\d+ % {2}.* of 24 MiB/)
  t.ok(shown.endsWith('\r\x1b[K/dev/mapper/disk.img\r\n'), 'cleared before the result')
  t.match(dmloop('verify', '--content=full', image), {
    status: 0,
    stdout: `${image}: ok\n`,
    stderr: '',
  })
  t.match(onTerminal('verify', '--content=full', 'disk.img').shown, /comparing disk.img +\d+ %/)
  const { stderr } = inShell(`dmloop unmap disk.img && dmloop map --verify=full ${image} | cat`)
  t.equal(stderr, '')
  t.match(dmloop('unmap', 'disk.img'), DONE)
  clean(t)
  t.end()
})

await t.test('refused: 1', (t) => {
  const hole = `${host.path}/hole`
  sh(`truncate -s 64K ${hole}`)
  t.match(dmloop('plan', hole), {
    status: 1,
    stderr: '',
    stdout: /DMLOOP_HOLE\n.*\n +Fill it.*dmloop provision/,
  })
  t.match(dmloop('map', hole), {
    status: 1,
    stdout: '',
    stderr: /^dmloop: .* hole.*\n +Fill it with zeros: dmloop/,
  })
  t.match(json(t, 1, 'map', hole), { error: { code: 'DMLOOP_HOLE', file: hole, problems: [{}] } })
  t.match(json(t, 1, 'plan', hole), { problems: [{ code: 'DMLOOP_HOLE' }] })
  t.match(dmloop('unmap', 'none'), { status: 1, stderr: /is not the name of a mapping/ })
  sh('mkfs.ext4 -q /dev/ram1; mkdir -p /tmp/at; mount /dev/ram1 /tmp/at')
  t.match(dmloop('wrap', '/dev/ram1', 'x'), { status: 1, stderr: /is held by the mount/ })
  sh('umount /tmp/at')

  t.match(dmloop('map', small), { status: 0 })
  t.match(dmloop('map', small), { status: 1, stderr: /mapped already[^]*dmloop list/ })
  t.match(dmloop('release', small), { status: 1, stderr: /mapped already/ })
  const held = openSync('/dev/mapper/small.img', 'r')
  t.match(dmloop('unmap', '--timeout=0', 'small.img'), {
    status: 1,
    stderr: /still open[^]*--deferred/,
  })
  sh(
    'dmsetup suspend small.img; dmsetup reload small.img --table "0 2048 error"; dmsetup resume small.img',
  )
  t.match(dmloop('verify', 'small.img'), {
    status: 1,
    stdout: /^small.img: \d problems?\n/,
    stderr: '',
  })
  t.match(json(t, 1, 'verify', '--all'), { results: [{ operand: 'small.img', ok: false }] })
  t.match(dmloop('unmap', '--deferred', 'small.img'), DONE)
  closeSync(held)
  sh('while dmsetup info small.img >/dev/null 2>&1; do sleep 0.1; done')
  t.match(dmloop('list'), DONE)
  t.notMatch(sh(`lsattr ${small}`), /^\S*i\S* /, 'list has released the file')
  clean(t)
  t.end()
})

await t.test('usage: 2', (t) => {
  for (const words of [
    ['map'],
    ['map', '--foo', image],
    ['map', '--holes=zero', image],
    ['wrap', '/tmp', 'x'],
  ]) {
    t.match(
      dmloop(...words),
      { status: 2, stdout: '', stderr: /^dmloop: .*Try: dmloop help \w+\n$/ },
      words.join(' '),
    )
  }
  t.match(json(t, 2, 'map', '--foo', image), { error: { code: 'ERR_PARSE_ARGS_UNKNOWN_OPTION' } })
  t.match(json(t, 2, 'wrap', '/tmp', 'x'), { error: { code: 'ERR_INVALID_ARG_VALUE' } })
  clean(t)
  t.end()
})

await t.test('a system call failed: 3', (t) => {
  t.match(dmloop('map', '/tmp/none'), { status: 3, stdout: '', stderr: /^dmloop: ENOENT/ })
  t.match(json(t, 3, 'map', '/tmp/none'), {
    error: { code: 'ENOENT', errno: -2, path: '/tmp/none' },
  })
  t.match(json(t, 3, 'unmap', '/tmp/none'), { results: [{ error: { code: 'ENOENT' } }] })
  clean(t)
  t.end()
})

await t.test('a signal: nothing is left', async (t) => {
  const full = ['map', '--verify=full', image]
  for (const [signal, status, moment] of [
    ['SIGINT', 130, 'is guarded'],
    ['SIGINT', 130, 'created disk.img'],
    ['SIGTERM', 143, 'resumed disk.img'],
    ['SIGHUP', 129, 'resumed disk.img'],
  ] as const) {
    const outcome = await signalAt(signal, moment, ...full)
    t.match(
      outcome,
      { status, stdout: '', stderr: `stopped by ${signal}; nothing is left` },
      moment,
    )
    clean(t)
  }
  const wrapped = await signalAt('SIGINT', 'created whole', 'wrap', '/dev/ram1', 'whole')
  t.match(wrapped, { status: 130, stdout: '' })
  clean(t)
  const json = await signalAt('SIGINT', 'resumed disk.img', ...full, '--json')
  t.match(JSON.parse(json.stdout), { error: { code: 'SIGINT' } })
  clean(t)
})

await t.test('what a crash has left', (t) => {
  t.match(dmloop('map', '--name=left', image), { status: 0 })
  sh('dmsetup remove --retry left')
  t.match(sh(`lsattr ${image}`), /^\S*i\S* /)
  t.match(dmloop('release', image), DONE)
  clean(t)
  t.end()
})

host.remove()
