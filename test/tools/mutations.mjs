// npm run test:mutations [-- WORD ...]: takes each safety step away, in a copy of lib/, and runs the guest test
// that is meant for it. A test that stays green does not show the step: then this fails. With WORDs, only the
// steps that have one of them. Not part of `npm test`: it takes about half an hour.
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'out', 'mutations')

/** How a test program is run: its arguments, and the guest's options. */
const guest = (test, args = [], options = []) => ({ test, args, options })
const EXT4 = guest('guard', ['ext4'], ['--disk=400'])
const F2FS = guest('guard', ['f2fs'], ['--disk=400', '--modules=f2fs'])
const IDENTITY = guest('identity', ['ext4'], ['--disk=400'])
const VOLUMES = guest('volumes', ['ext4'], ['--disk=400'])
const RECORDS = guest('records', ['ext4'], ['--disk=400'])
const STALE = guest('stale', ['ext4'], ['--disk=400'])
const COMMAND = guest('command', [], ['--udev', '--disk=100'])
const PROOF = guest('proof', [], ['--disk=100'])
const PARTITIONS = guest('partitions', [], ['--disk=200'])
const LP_METADATA = guest('lp-metadata', [], ['--disk=100'])
const FENCE = guest('fence', ['ext4'], ['--disk=400', '--memory=2G'])
const STORE_LP = guest('store-lp', [], ['--disk=100', '--memory=2G'])

/** `from` is in the file once, and `to` stands in its place. */
const STEPS = [
  {
    step: 'the lease that shows that there is no writer',
    file: 'guard',
    from: '  await takeLease(file, exclusive)\n  let mark',
    to: '  let mark',
    run: EXT4,
  },
  {
    step: 'whether that lease was still whole',
    file: 'guard',
    from: 'would succeed now.\n  if (!(await endLease(file, exclusive))) throw',
    to: 'would succeed now.\n  if (!(await endLease(file, exclusive)) && false) throw',
    run: EXT4,
  },
  {
    step: 'the immutable flag',
    file: 'guard',
    from: "  if (protection === 'immutable') await result(native.setImmutable(fd, true), path)\n",
    to: "  if (protection === 'immutable') return\n",
    run: EXT4,
  },
  {
    step: 'the lease right before the device goes live',
    file: 'guard',
    from: '  await takeLease(file, exclusive)\n  let value',
    to: '  let value',
    run: EXT4,
  },
  {
    step: 'whether that lease was still whole when it did',
    file: 'guard',
    from: 'if (!(await endLease(file, exclusive))) throw await fileInUse(file, exclusive)\n  return value',
    to: 'await endLease(file, exclusive)\n  return value',
    run: EXT4,
  },
  {
    step: 'that a guard comes off when a mapping fails',
    file: 'map-file',
    from: 'if (!guarded) await restoreAttributes(file)',
    to: '',
    run: EXT4,
  },
  {
    step: 'the mark before the change',
    file: 'guard',
    from: '  await writeMark(file, mark)\n',
    to: '',
    run: EXT4,
  },
  {
    step: 'f2fs: owner and mode',
    file: 'guard',
    from: '  if (access) await result(native.setAccess(fd, 0, access.mode & ~OTHERS), path)\n',
    to: '',
    run: F2FS,
  },
  {
    step: 'f2fs: that the lease is an exclusive one',
    file: 'guard',
    from: "  requiredProtections(file, guard).includes('private')\n",
    to: '  false\n',
    run: F2FS,
  },
  {
    step: 'f2fs: the lease with guard none',
    file: 'guard',
    from: 'if (required.length === 0) return false',
    to: "if (required.length === 0 || guard === 'none') return false",
    run: F2FS,
  },
  {
    step: 'f2fs: that the lease before the device goes live is exclusive',
    file: 'guard',
    from: 'const exclusive = isExclusive(file, guard)\n  await takeLease(file, exclusive)\n  let value',
    to: 'const exclusive = false\n  await takeLease(file, exclusive)\n  let value',
    run: F2FS,
  },
  {
    step: 'f2fs: that a file is not named through an idmapped mount',
    file: 'plan/verdict',
    from: "if (required.includes('private') && mountIdmapped !== false) return [idmappedMount(file)]",
    to: '',
    run: F2FS,
  },
  {
    step: 'f2fs: that its owner is not restored through an idmapped mount',
    file: 'plan/verdict',
    from: 'if (mark.access && mountIdmapped === true) return',
    to: 'if (mark.access === null) return',
    run: F2FS,
  },
  {
    step: 'f2fs: the pin',
    file: 'guard',
    from: '    await result(native.setPinned(fd, true), path)\n',
    to: '',
    run: F2FS,
  },
  {
    step: 'the second reading of the extents',
    file: 'plan/prove-plan',
    from: 'if (moved >= 0) {',
    to: 'if (moved < -1) {',
    run: PROOF,
  },
  {
    step: 'the second reading of the underlying devices',
    file: 'plan/prove-plan',
    from: 'if (!stack || !sameStack(stack, again)) {',
    to: 'if (!stack) {',
    run: PROOF,
  },
  {
    step: 'the comparison of the content',
    file: 'map-file',
    from: '    await proveContent(built.parts, nodePath(resumed.name), request)\n',
    to: '',
    run: PROOF,
  },
  {
    step: 'that no other mapping has the blocks',
    file: 'load-table',
    from: '  await assertBlocksUnmapped(built, device.uuid)\n',
    to: '',
    run: PROOF,
  },
  {
    step: 'the same for a loop device',
    file: 'map-loop',
    from: 'for (const file of files.list) await assertUnmapped(file)',
    to: '',
    run: guest('overlap', [], ['--disk=100']),
  },
  {
    step: 'that the inactive table is compared as well',
    file: 'kernel/device-mapper',
    from: 'for (const inactive of [true, false]) {',
    to: 'for (const inactive of [false]) {',
    run: guest('overlap', [], ['--disk=100']),
  },
  {
    step: 'that the cache is dropped and compared before a file is released',
    file: 'guard',
    from: '  await dropStalePages(file)\n  await restoreAttributes(file)\n',
    to: '  await restoreAttributes(file)\n',
    run: STALE,
  },
  {
    step: 'that stale pages keep the guard',
    file: 'page-cache',
    from: 'if (!expelled) throw await staleCacheError(file, last)',
    to: '',
    run: STALE,
  },
  {
    step: 'that pages which cannot be compared with the disk count as stale',
    file: 'page-cache',
    from: 'return hasDirectReads(probe.facts, filesystemOf(probe))',
    to: 'return probe !== null',
    run: STALE,
  },
  {
    step: 'that a mark is of this file',
    file: 'plan/mark',
    from: 'return mark && filePartOf(mark.identity) === filePartOf(identity) ? mark : undefined',
    to: 'return mark',
    run: RECORDS,
  },
  {
    step: 'that a mark tells the file of a volume with another number',
    file: 'locate',
    from: 'if (hasMark(found, identity)) {',
    to: 'if (found.fd < 0) {',
    run: VOLUMES,
  },
  {
    step: 'that a file at the old number must be stored where the table is',
    file: 'locate',
    from: 'const expected = await compareStorage(table, number)',
    to: "const expected = 'same' as string",
    run: VOLUMES,
  },
  {
    step: 'that the table tells the file of a volume with another number',
    file: 'locate',
    from: "if ((await compareStorage(table, deviceName(device.major, device.minor))) !== 'same') continue",
    to: 'continue',
    run: VOLUMES,
  },
  {
    step: 'that a file at the old number must be on a filesystem with the old UUID',
    file: 'locate',
    from: "const expected = same === false ? 'unreachable' : await",
    to: 'const expected = await',
    run: VOLUMES,
  },
  {
    step: 'that a file which cannot be reached is reported',
    file: 'mapped-files',
    from: '      throw unreachable(name)\n    }\n    if',
    to: '      return\n    }\n    if',
    run: VOLUMES,
  },
  {
    step: 'that an old mapping does not release the file of a later one',
    file: 'mapped-files',
    from: 'if (!isKept && mark?.id === id) await releaseGuard(found)',
    to: 'if (!isKept && mark) await releaseGuard(found)',
    run: RECORDS,
  },
  {
    step: 'the same for a file without a mark',
    file: 'mapped-files',
    from: 'const isMappedAgain = record !== undefined && record.id !== id',
    to: 'const isMappedAgain = false as boolean',
    run: RECORDS,
  },
  {
    step: 'that the mark is believed over a record',
    file: 'mapped-files',
    from: "return current.id === '' || current.id === known.id ? known : current",
    to: 'return known',
    run: RECORDS,
  },
  {
    step: 'that the device of a mark has blocks of this filesystem',
    file: 'recovery',
    from: "return storage === 'same' || (storage === 'unknown' && isNumberKept) ? device : undefined",
    to: 'return device',
    run: VOLUMES,
  },
  {
    step: 'that a guard which was left stays while a mapping has the blocks',
    file: 'guard',
    from: '  await assertNotInTables(file)\n',
    to: '',
    run: VOLUMES,
  },
  {
    step: 'that releaseFile itself drops the cache',
    file: 'recovery',
    from: '    await dropStalePages(file)\n    if (!(await readMark(file))) continue\n',
    to: '    if (!(await readMark(file))) continue\n',
    run: STALE,
  },
  {
    step: 'the lock on the file itself',
    file: 'plan/backing-file',
    from: 'await files.get(identity)?.flock(limit, options)',
    to: 'await Promise.resolve(files.get(identity)?.path)',
    run: RECORDS,
  },
  {
    step: 'that a shared lock by a reader does not keep a device',
    file: 'linear-device',
    from: 'orShared: true',
    to: 'orShared: false',
    run: RECORDS,
  },
  {
    step: 'that a shared lock is held in place of an exclusive lock',
    file: 'plan/backing-file',
    from: 'if (orShared && (await this.#tryFlock(false))) {',
    to: 'if (orShared) {',
    run: RECORDS,
  },
  {
    step: 'that a file which cannot be opened because of a lease is reported',
    file: 'mapped-files',
    from: '    if (found instanceof Error) throw found\n    const mark',
    to: '    if (found instanceof Error) return\n    const mark',
    run: RECORDS,
  },
  {
    step: 'that a device removed meanwhile is not returned',
    file: 'open-mapping',
    from: 'if (!gone && (await findSameDevice(device))) throw error',
    to: 'if (gone) throw error',
    run: IDENTITY,
  },
  {
    step: 'that a deferred removal is finished',
    file: 'mapped-device',
    from: "    if ((await this.remove(request)) === 'deferred') {\n      this.#scheduleFinish(SOON)\n",
    to: "    if ((await this.remove(request)) === 'deferred') {\n",
    run: guest('nodes', [], ['--disk=100']),
  },
  {
    step: 'that files of the filesystem itself are refused',
    file: 'plan/verdict',
    from: 'if (uses.filesystem !== undefined) {',
    to: 'if (uses.filesystem === null) {',
    run: guest('filesystem-files', [], ['--disk=100', '--modules=f2fs']),
  },
  {
    step: 'that a mapping is no layer that only translates',
    file: 'plan/device-stack',
    from: '  others.length === 0 && identityOf(device.uuid) === undefined',
    to: '  others.length === 0',
    run: guest('nested', [], ['--disk=100']),
  },
  {
    step: 'that a deleted file is refused',
    file: 'plan/verdict',
    from: 'if (facts.links === 0) {',
    to: 'if (facts.links < 0) {',
    run: guest('refusals', [], ['--udev', '--disk=400', '--modules=dm-delay']),
  },
  {
    step: 'that what is dirty is synced before the extents count',
    file: 'map-file',
    from: '    await files.syncAndProbe()\n',
    to: '    await files.probe()\n',
    run: PROOF,
  },
  {
    step: 'that all partitions are closed before one is removed',
    file: 'partitions',
    from: 'if (request.deferred !== true) await awaitClosed(device, request)',
    to: '',
    run: PARTITIONS,
  },
  {
    step: 'that partitions are removed with their device',
    file: 'partitions',
    from: 'for (const each of await partitionDevices(device.uuid)) await removeDevice(each, request)',
    to: '',
    run: PARTITIONS,
  },
  {
    step: 'that partitions are removed when a mapping fails',
    file: 'make-partitions',
    from: 'undo.onFailure(() => removeDevice(node, DEFAULT_WAIT))',
    to: '',
    run: PARTITIONS,
  },
  {
    step: 'that a partition past the end has no device',
    file: 'make-partitions',
    from: 'if (entry.start + entry.size > size) {',
    to: 'if (entry.size < 0) {',
    run: guest('partition-tables', [], ['--disk=200']),
  },
  {
    step: 'that a signal stops what the command does',
    file: 'cli/command',
    from: '    controller.abort(new Interrupted(signal, whenStopped))\n',
    to: '',
    run: COMMAND,
  },
  {
    step: 'that a device goes again for which a signal came too late',
    file: 'cli/map',
    from: '  await device.unmap()\n',
    to: '',
    run: COMMAND,
  },
  {
    step: 'that ext4’s journal is written out before',
    file: 'map-file',
    from: '    await files.flushJournal()\n',
    to: '',
    run: guest('provision', ['ext4'], ['--disk=400', '--memory=3G']),
  },
  {
    step: 'that nobody else has a file open that is provisioned',
    file: 'images/provision-file',
    from: '    await assertExclusive()\n',
    to: '    await Promise.resolve(assertExclusive)\n',
    run: guest('provision', ['ext4'], ['--disk=400', '--memory=3G']),
  },
  {
    step: 'that an image which is mapped is not replaced',
    file: 'images/create-image',
    from: 'process.geteuid?.() !== 0',
    to: 'process.pid !== 0',
    run: guest('create', ['ext4'], ['--disk=400', '--memory=3G']),
  },
  {
    step: 'that what fails leaves no temporary files',
    file: 'images/new-image',
    from: 'if (isOwn === true) await this.#target.removeTemporary()',
    to: 'if (isOwn === undefined) throw new Error()',
    run: guest('create', ['ext4'], ['--disk=400', '--memory=3G']),
  },
  {
    step: 'that parts without a first one are removed',
    file: 'images/image-target',
    from: 'for (let index = 1; index < count; index++) await unlinkIfThere(this.#part(index))',
    to: 'await Promise.resolve(count)',
    run: guest('image-kill', ['ext4'], ['--disk=100']),
  },
  {
    step: 'the SHA-256 of the geometry of logical partitions',
    file: 'store/lp-geometry',
    from: 'if (!ownChecksum(block.subarray(0, SIZE), CHECKSUM_AT).equals(stored)) {',
    to: 'if (stored.length === 0) {',
    run: LP_METADATA,
  },
  {
    step: 'the SHA-256 of their header',
    file: 'store/lp-header',
    from: 'if (ownChecksum(header, CHECKSUM_AT).equals(header.subarray(CHECKSUM_AT, TABLES_SIZE_AT))) {',
    to: 'if (header.length > 0) {',
    run: LP_METADATA,
  },
  {
    step: 'the SHA-256 of their tables',
    file: 'store/lp-header',
    from: 'return sha256(tables).equals(tablesChecksum)',
    to: 'return tablesChecksum.length > 0',
    run: LP_METADATA,
  },
  {
    step: 'the fence',
    file: 'map-file',
    from: 'if (request.fence) await raiseFences(built)',
    to: 'if (request.fence) void raiseFences',
    run: FENCE,
  },
  {
    step: 'that it ends with its mapping',
    file: 'mapped-files',
    from: 'await settleFences(devices, this.found)',
    to: 'void settleFences',
    run: FENCE,
  },
  {
    step: 'that the next mapping ends one that was left',
    file: 'recovery',
    from: '  await settleFences(files.devices, files.list)\n',
    to: '  void settleFences\n',
    run: FENCE,
  },
  {
    step: 'that what was written to the file fails before it ends',
    file: 'fence',
    from: 'if (file.device === device) await failWrites(file)',
    to: 'if (file.device === device) void failWrites',
    run: FENCE,
  },
  {
    step: 'that the fences of other mappings stay',
    file: 'fence',
    from: '(fence) => mappedRuns(device, fence)',
    to: '(fence) => (fence.length > 0 ? [] : mappedRuns(device, fence))',
    run: FENCE,
  },
  {
    step: 'that verify puts it back',
    file: 'fence',
    from: 'mergeRuns([...fence, ...(await mappedRuns(device, runs))]),',
    to: 'mergeRuns([...fence, ...(await mappedRuns(device, runs)).slice(0, 0)]),',
    run: FENCE,
  },
  {
    step: 'that verify misses it',
    file: 'linear-device',
    from: 'if (record.fence === true) problems.push(...(await judgeFence(built)))',
    to: 'if (record.fence === true) void judgeFence',
    run: FENCE,
  },
  {
    step: 'that there is a wrapper for it',
    file: 'map-file',
    from: 'if (request.fence) problems.push(...(await judgeFenceable(files)))',
    to: 'if (request.fence) void judgeFenceable',
    run: FENCE,
  },
  {
    step: 'that a store imports only what is stored where it must be',
    file: 'store/import-lp',
    from: "  if (deviation) throw changed(paths[0] ?? '', 'is stored elsewhere than its partition', deviation)\n",
    to: '  void deviation\n',
    run: STORE_LP,
  },
  {
    step: 'that what it could not import is as it was',
    file: 'store/import-lp',
    from: '    if (known === undefined) {\n      await abandon',
    to: '    if (known !== undefined) {\n      await abandon',
    run: STORE_LP,
  },
]

/** A copy of the package in which a step is missing. */
function mutate({ file, from, to }, copy) {
  rmSync(copy, { recursive: true, force: true })
  mkdirSync(join(copy, 'build'), { recursive: true })
  for (const part of ['package.json', 'tsconfig.json', 'lib', 'dist', 'out/test', 'out/examples']) {
    cpSync(join(root, part), join(copy, part), { recursive: true })
  }
  for (const part of ['node_modules', 'build/Release', 'test', 'README.md', 'docs']) {
    symlinkSync(join(root, part), join(copy, part))
  }
  const path = join(copy, 'lib', `${file}.ts`)
  const text = readFileSync(path, 'utf8')
  if (text.split(from).length !== 2) throw new Error(`lib/${file}.ts has not once: ${from}`)
  writeFileSync(
    path,
    text.replace(from, () => to),
  )
  // What is unused now is no error here: the compiler writes its output all the same.
  const tsc = join(root, 'node_modules/.bin/tsc')
  spawnSync(tsc, ['-p', copy, '--incremental', 'false'], { stdio: 'ignore' })
  const output = (where) => readFileSync(join(where, 'dist', `${file}.js`), 'utf8')
  if (output(copy) === output(root)) throw new Error(`lib/${file}.ts compiles to the same`)
}

function runGuest({ test, args, options }, copy) {
  const cli = join(root, 'out/vm/cli.js')
  const program = join(copy, 'out/test/vm', `${test}.js`)
  const command = [cli, '--timeout=600', ...options, process.execPath, program, ...args]
  return new Promise((resolve) => {
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const note = (data) => (output += data.toString())
    child.stdout.on('data', note)
    child.stderr.on('data', note)
    child.once('close', (status) => resolve({ status, output }))
  })
}

/** What of a run is red: the first failures, or how else it ended. */
function redness({ status, output }) {
  const failed = [...output.matchAll(/^not ok \d+ - (.*?)(?: # .*)?$/gm)].map(([, name]) => name)
  if (failed.length > 0) return failed.slice(0, 2).join('; ')
  return status === 0 ? undefined : `ended with ${status}`
}

const words = process.argv.slice(2)
const steps = STEPS.filter(
  ({ step, file }) =>
    words.length === 0 || words.some((word) => step.includes(word) || file === word),
)
const outcomes = new Map()
const waiting = [...steps.entries()]
async function work() {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const [index, step] = next
    const copy = join(folder, String(index))
    mutate(step, copy)
    const red = redness(await runGuest(step.run, copy))
    outcomes.set(index, red)
    console.log(`# ${red === undefined ? 'STAYS GREEN' : 'red'}: ${step.step}`)
    rmSync(copy, { recursive: true, force: true })
  }
}
// A guest has one processor, and the machine usually two.
await Promise.all([work(), work()])

console.log('\n| step that was taken away | in | test | red |\n| --- | --- | --- | --- |')
for (const [index, { step, file, run }] of steps.entries()) {
  const test = [run.test, ...run.args].join(' ')
  console.log(`| ${step} | lib/${file}.ts | ${test} | ${outcomes.get(index) ?? '**no**'} |`)
}
const green = [...outcomes.values()].filter((red) => red === undefined).length
console.log(`\n${steps.length - green} passed, ${green} failed`)
process.exitCode = green > 0 ? 1 : 0
