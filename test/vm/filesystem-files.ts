// What the kernel itself uses of a filesystem's files is not mapped: the journal, quota files and such.
import { execFileSync } from 'node:child_process'
import { closeSync, openSync, renameSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createImage, mapFile, planFile, type Plan } from 'dmloop'
import { native, result } from '#lib/kernel/native.js'
import { deviceNames, fileState, leftFiles, makeHost, oneSegment, randomFile, sh } from './lab.js'

const PEER = fileURLToPath(new URL('peer.js', import.meta.url))

/** Every way to map it is refused, whatever the backend, and the file is left alone. */
async function refused(t: Test, file: string, role: RegExp): Promise<void> {
  const before = fileState(file)
  const devices = [deviceNames(), leftFiles(), sh('losetup -l')]
  const refusal = { code: 'DMLOOP_FILESYSTEM_FILE', message: role, file, blocks: 'all' }
  for (const [backend, readOnly] of [
    ['linear', false],
    ['loop', true],
    ['auto', false],
  ] as const) {
    const options = { backend, readOnly }
    t.match((await planFile(file, options)).problems, [refusal], `${backend}, the plan`)
    const { blocks: _, ...error } = refusal
    await t.rejects(mapFile(file, options), error, backend)
  }
  t.equal(fileState(file), before, 'the file is as it was')
  t.strictSame([deviceNames(), leftFiles(), sh('losetup -l')], devices, 'nothing is left')
}

async function mapped(t: Test, file: string): Promise<void> {
  for (const backend of ['linear', 'loop'] as const) {
    const device = await mapFile(file, { backend, verify: 'full' })
    t.equal(device.backend, backend)
    await device.unmap()
  }
}

/** Has another file mapped first, so that there is a folder of records. */
const host = makeHost('ext4', oneSegment(), { name: 'host' })
randomFile(`${host.path}/image`, 1 << 20)
await mapped(t, `${host.path}/image`)
host.remove()

await t.test('a journal that is a file with a name', async (t) => {
  const host = makeHost('ext2', oneSegment(), { name: 'host' })
  const device = '/dev/mapper/host'
  randomFile(`${host.path}/image`, 1 << 20)
  sh(`tune2fs -j ${device}`)
  const file = `${host.path}/.journal`
  await refused(t, file, /is the journal of its filesystem/)
  await mapped(t, `${host.path}/image`)
  sh(`umount ${host.path}; mount -t ext4 ${device} ${host.path}`)
  await refused(t, file, /is the journal of its filesystem/)
  await mapped(t, `${host.path}/image`)

  // In a container there may be no node of the disk, or another's: the kernel tells of its journals.
  const node = `/dev/dm-${sh('dmsetup info -c --noheadings -o minor host').trim()}`
  renameSync(node, '/dev/hidden')
  await refused(t, file, /is the journal of its filesystem/)
  sh(`mknod ${node} b 1 1`)
  await refused(t, file, /is the journal of its filesystem/)
  renameSync('/dev/hidden', node)

  sh(`umount ${host.path}; tune2fs -O ^has_journal ${device}; mount ${device} ${host.path}`)
  sh(`chattr -i ${file} 2>/dev/null || head -c 1M /dev/urandom >${file}; sync`)
  await mapped(t, file)
  host.remove()
})

/** Turns quotas on or off by quotactl(2), as the quota tools would. */
function quota(verb: 'on' | 'off', file: string): void {
  const [command, format] = verb === 'on' ? [0x80000200, 4] : [0x80000300, 0]
  const call = `$d = "/dev/mapper/host"; $f = "${file}"; exit syscall(179, ${command}, $d, ${format}, $f) != 0`
  sh(`perl -e '${call}'`)
}

/** A file with the quotas of nobody, in the format of Linux 2.6.33. */
function makeQuotaFile(path: string): void {
  sh(`truncate -s 64M /tmp/disk; mkfs.ext4 -q -O quota /tmp/disk; modprobe -a quota_v2
      debugfs -R 'dump <3> ${path}' /tmp/disk 2>/dev/null; head -c 64K /dev/zero >>${path}; sync`)
}

for (const [filesystem, options] of [
  ['ext2', '-o usrquota'],
  ['ext4', '-o usrjquota=aquota.user,jqfmt=vfsv1'],
  ['f2fs', '-o usrquota'],
] as const) {
  await t.test(`a quota file in use on ${filesystem}`, async (t) => {
    const host = makeHost(filesystem, oneSegment(), { name: 'host', mount: options })
    const file = `${host.path}/aquota.user`
    makeQuotaFile('/tmp/quota')
    // Newer f2fs pins a file only before it has blocks, which createImage knows.
    await createImage(file, { from: '/tmp/quota' })
    await createImage(`${host.path}/image`, { size: 1 << 20 })
    sh(`chmod 755 ${host.path}; chmod 644 ${host.path}/*; sync`)
    await mapped(t, file)
    quota('on', file)
    await refused(t, file, /is the quota file of users of its filesystem/)
    await mapped(t, `${host.path}/image`)

    const asNobody = (command: string[], of: string): string[] => {
      const [program, ...args] = [...command, process.execPath, PEER, 'plan-as-nobody', of]
      const plan = JSON.parse(execFileSync(program, args, { encoding: 'utf8' })) as Plan
      return plan.problems.map(({ code }) => code)
    }
    t.strictSame(asNobody([], file), ['DMLOOP_FILESYSTEM_FILE'], 'nobody may ask that')
    t.strictSame(asNobody([], `${host.path}/image`), ['DMLOOP_NO_DEVICE_MAPPER'], 'plans go on')
    // Linux before 5.14, as far as this is concerned.
    const old = ['strace', '-f', '-o', '/dev/null', '-e', 'inject=quotactl_fd:error=ENOSYS']
    t.strictSame(asNobody(old, file), ['DMLOOP_FILESYSTEM_FILE'], 'without quotactl_fd')

    quota('off', file)
    const device = await mapFile(file)
    quota('on', file)
    t.match(await device.verify(), { ok: false, problems: [{ code: 'DMLOOP_FILESYSTEM_FILE' }] })
    quota('off', file)
    const found = [{ code: 'DMLOOP_UNGUARDABLE' }]
    t.match(await device.verify(), { problems: found }, 'which takes the immutable flag away')
    await device.unmap()
    host.remove()
  })
}

await t.test('what the superblock names', async (t) => {
  const features =
    '^metadata_csum,quota,project,orphan_file -E quotatype=usrquota:grpquota:prjquota'
  const host = makeHost('ext4', oneSegment(), { name: 'host', mkfs: `-O ${features}` })
  const file = `${host.path}/image`
  randomFile(file, 1 << 20)
  const facts = sh('dumpe2fs -h /dev/mapper/host 2>/dev/null')
  const named = [...facts.matchAll(/^(?:Journal|\w+ quota|Orphan file) inode: +(\d+)$/gm)]
  const fd = openSync(file, 'r')
  const { filesystemFiles } = await result(native.probe(fd))
  closeSync(fd)
  t.equal(named.length, 5)
  t.strictSame(
    [...new Set(filesystemFiles.map(({ inode }) => inode))].sort(),
    named.map(([, inode]) => inode).sort(),
    'as dumpe2fs has them',
  )
  await mapped(t, file)
  host.remove()
})

t.strictSame(deviceNames(), [])
