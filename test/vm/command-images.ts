// The command's verbs that make images, and the devices of partitions.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { COMMAND, dmloop, inShell, json, onTerminal } from './command-line.js'
import { deviceNames, leftFiles, sh, wrappedHost } from './lab.js'

const host = await wrappedHost('ext4')
const image = `${host.path}/disk.img`
const DONE = { status: 0, stdout: '', stderr: '' }

const clean = (t: Test): void => {
  sh(`rm -f ${image}*`)
  t.strictSame(deviceNames(), ['host'], 'no device is left')
  t.strictSame(leftFiles(), [], 'nothing else either')
  t.strictSame(readdirSync(host.path), ['lost+found'], 'no other file')
}

await t.test('create', (t) => {
  t.match(dmloop('create', '--size=8M', image), { ...DONE, stdout: `${image}\n` })
  t.match(dmloop('plan', image), { status: 0, stdout: /8 MiB on ext4/ })
  t.match(dmloop('create', '--size=8M', image), { status: 1, stdout: '', stderr: /--overwrite/ })
  t.match(json(t, 1, 'create', '--size=8M', image), { error: { code: 'DMLOOP_IMAGE_EXISTS' } })
  t.match(json(t, 0, 'create', '--size=4M', '--overwrite', image), { files: [image] })
  t.match(dmloop('create', image), { status: 2, stderr: /Try: dmloop help create/ })
  t.match(json(t, 3, 'create', '--from=/tmp/none', `${image}.2`), { error: { code: 'ENOENT' } })
  const { status, shown } = onTerminal('create', '--size=16M', '--overwrite', image)
  t.equal(status, 0)
  t.match(shown, / % {2}.* of 16 MiB/)
  const split = json(t, 0, 'create', '--size=3M', '--max-file-size=1M', `${image}.part`)
  const parts = [0, 1, 2].map((number) => `${image}.part.000${number}`)
  t.strictSame(split, { files: parts })
  t.match(dmloop('map', '--name=parts', ...parts), { status: 0, stdout: '/dev/mapper/parts\n' })
  t.match(dmloop('unmap', 'parts'), DONE)
  clean(t)
  t.end()
})

await t.test('create from standard input', async (t) => {
  sh('head -c 3M /dev/urandom >/tmp/content')
  const sum = sh('sha256sum </tmp/content').slice(0, 64)
  const made = inShell(`gzip -c /tmp/content | dmloop create --from=- --sha256=${sum} ${image}`)
  t.match(made, { ...DONE, stdout: `${image}\n` })
  sh(`cmp /tmp/content ${image}`)
  const wrong = `dmloop create --from=- --sha256=${'0'.repeat(64)} ${image}.2 </tmp/content`
  t.match(inShell(wrong), { status: 1, stdout: '', stderr: /has the SHA-256/ })

  // A source that never ends.
  const child = spawn(process.execPath, [COMMAND, 'create', '--from=-', `${image}.2`], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  child.stdin.on('error', () => undefined)
  let stderr = ''
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()))
  child.stdin.write(Buffer.alloc(1 << 20, 1))
  const begun = (): boolean => readdirSync(host.path).some((name) => name.startsWith('.dmloop-'))
  for (let look = 0; look < 300 && !begun(); look++) await sleep(100)
  child.kill('SIGINT')
  const [status] = (await once(child, 'close')) as [number | null]
  t.match({ status, stderr }, { status: 130, stderr: 'stopped by SIGINT; no file is left' })
  clean(t)
})

await t.test('provision', (t) => {
  sh(`truncate -s 4M ${image}`)
  t.match(dmloop('map', image), { status: 1, stderr: /dmloop provision/ })
  t.match(dmloop('provision', image), DONE)
  t.match(dmloop('map', image), { status: 0 })
  t.match(dmloop('provision', image), { status: 1 }, 'not while it is mapped')
  t.match(dmloop('unmap', image), DONE)
  t.match(json(t, 3, 'provision', image, '/tmp/none'), {
    results: [{ operand: image, ok: true }, { error: { code: 'ENOENT' } }],
  })
  clean(t)
  t.end()
})

await t.test('partitions', (t) => {
  const sector = Buffer.alloc(512)
  // A DOS partition table: type 0x83, from sector 8, 1,000 of them.
  sector[446 + 4] = 0x83
  sector.writeUInt32LE(8, 446 + 8)
  sector.writeUInt32LE(1000, 446 + 12)
  sector.writeUInt16LE(0xaa55, 510)
  writeFileSync(image, Buffer.concat([sector, Buffer.alloc((1 << 20) - 512)]))
  sh(`sync ${image}`)
  for (const backend of ['linear', 'loop']) {
    const partition = { number: 1, start: 4096, size: 512_000 }
    const mapped = json(t, 0, 'map', '--partscan', `--backend=${backend}`, image)
    t.match(mapped, { partitions: [partition] })
    t.match(json(t, 0, 'list'), { mappings: [{ partitions: [partition] }] })
    t.match(dmloop('list').stdout, /\ndisk.img:1 +\/dev\/\S+1 +500K +0 +- +- /)
    t.match(dmloop('unmap', image), DONE)
  }
  clean(t)
  t.end()
})

await t.test('images by name', (t) => {
  const store = `${host.path}/store`
  const content = '/tmp/content'
  sh(`head -c 3M /dev/urandom >${content}`)
  const a = `${store}/a.img`
  const made = dmloop('image', 'create', '--from', content, store, 'a')
  t.match(made, { ...DONE, stdout: `${a}\n` })
  t.match(json(t, 0, 'image', 'create', '--size=1M', store, 'b'), { name: 'b', size: 1 << 20 })
  t.match(dmloop('image', 'create', '--size=1M', store, 'b'), { status: 1, stdout: '' })
  t.match(dmloop('image', 'list', store).stdout, /^NAME .*\na +3M +0 +0 +0 +\d+ +\/.*\nb +1M/)
  const mapped = dmloop('image', 'map', store, 'a')
  t.match(mapped, { ...DONE, stdout: '/dev/mapper/a\n' })
  sh(`cmp ${content} /dev/mapper/a`)
  t.match(json(t, 0, 'image', 'list', store, 'a'), { images: [{ name: 'a', mapped: true }] })
  t.match(dmloop('image', 'resize', '--size=4M', store, 'a'), DONE)
  t.equal(sh('blockdev --getsize64 /dev/mapper/a').trim(), String(4 << 20))
  t.match(dmloop('image', 'validate', store), { ...DONE, stdout: 'a: ok\nb: ok\n' })
  t.match(dmloop('image', 'delete', store, 'a'), { status: 1, stderr: /is mapped, as \/dev/ })
  t.match(dmloop('image', 'unmap', store, 'a', 'none'), { status: 1, stderr: /none.*not an image/ })
  t.match(dmloop('image', 'map-all', store), { ...DONE, stdout: '/dev/mapper/a\n/dev/mapper/b\n' })
  t.match(dmloop('image', 'unmap', store, 'a', 'b'), DONE)

  const boot = dmloop('image', 'boot', '--for=initramfs-tools', '--root=/tmp/root', store)
  t.match(boot, { status: 0, stdout: /^\/tmp\/root\// })
  for (const file of boot.stdout.trim().split('\n')) sh(`test -f ${file}`)
  t.match(dmloop('image', 'export-lp', store, '/tmp/lp'), DONE)
  sh(`rm -rf ${store}/.dmloop`)
  t.match(dmloop('image', 'list', store), DONE)
  t.match(dmloop('image', 'import-lp', store, '/tmp/lp'), { ...DONE, stdout: 'a\nb\n' })

  t.match(dmloop('image', 'disable', store, 'b'), DONE)
  t.match(dmloop('image', 'map', store, 'b'), { status: 1, stderr: /is disabled/ })
  t.match(dmloop('image', 'remove-disabled', store), { ...DONE, stdout: 'b\n' })
  t.match(dmloop('image', 'delete', '--all', store), DONE)
  t.match(dmloop('image', 'list', store), DONE)
  t.match(dmloop('image', 'delete', store, 'a'), { status: 1, stderr: /not an image of the store/ })
  sh(`rm -r ${store}`)
  clean(t)
  t.end()
})

host.remove()
