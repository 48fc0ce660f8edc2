// The options of all verbs. The key of an option is that of the library, where the library has it, so that a
// verb can hand its values on; the flag is losetup's word, where losetup has one.

interface Common {
  flag: string
  short?: string
  help: string
}

export type Option = Common &
  (
    | { kind: 'on' | 'off' }
    | { kind: 'size' | 'count' | 'seconds' | 'text'; value: string }
    | { kind: 'choice'; choices: readonly string[] }
  )

export const OPTIONS = {
  offset: {
    kind: 'size',
    flag: 'offset',
    short: 'o',
    value: 'SIZE',
    help: 'the first byte of the file to map (default: 0)',
  },
  length: {
    kind: 'size',
    flag: 'sizelimit',
    value: 'SIZE',
    help: 'how much to map (default: up to the last whole logical block)',
  },
  readOnly: { kind: 'on', flag: 'read-only', short: 'r', help: 'make a read-only device' },
  holes: {
    kind: 'choice',
    flag: 'holes',
    choices: ['reject', 'zero'],
    help: 'zero: holes and unwritten ranges read as zeros; needs --read-only (default: reject)',
  },
  backend: {
    kind: 'choice',
    flag: 'backend',
    choices: ['linear', 'loop', 'auto'],
    help: 'linear: a device-mapper table of the file’s blocks; loop: a loop device; auto: linear where that is possible, else loop (default: linear)',
  },
  blockSize: {
    kind: 'size',
    flag: 'sector-size',
    short: 'b',
    value: 'SIZE',
    help: 'the logical block size of a loop device: 512 to 4096 (default: that of the disk)',
  },
  guard: {
    kind: 'choice',
    flag: 'guard',
    choices: ['immutable', 'swapfile', 'none'],
    help: 'immutable: nobody can change the file while it is mapped; swapfile: the same by way of the kernel’s swap files, for images made with it; none: you make sure of it (default: immutable)',
  },
  name: {
    kind: 'text',
    flag: 'name',
    value: 'NAME',
    help: 'the name of the device (default: that of the file)',
  },
  partitions: {
    kind: 'on',
    flag: 'partscan',
    short: 'P',
    help: 'make devices of the partitions in the file, too',
  },
  fence: {
    kind: 'on',
    flag: 'fence',
    help: 'keep even the filesystem from the blocks; it must be mounted on a wrapper',
  },
  udevScan: {
    kind: 'off',
    flag: 'no-udev-scan',
    help: 'keep udev from looking into the device: no links by UUID or label, no LVM',
  },
  verify: {
    kind: 'choice',
    flag: 'verify',
    choices: ['sample', 'full', 'none'],
    help: 'how much of file and device is compared first (default: sample)',
  },
  content: {
    kind: 'choice',
    flag: 'content',
    choices: ['sample', 'full'],
    help: 'compare the bytes of file and device as well: some blocks, or all',
  },
  deferred: {
    kind: 'on',
    flag: 'deferred',
    help: 'remove a device that is in use as soon as its last user closes it',
  },
  timeout: {
    kind: 'seconds',
    flag: 'timeout',
    value: 'SECONDS',
    help: 'how long to wait for other processes, udev and the kernel (default: 10)',
  },
  size: {
    kind: 'size',
    flag: 'size',
    short: 's',
    value: 'SIZE',
    help: 'the size of the image (default: that of its content)',
  },
  from: {
    kind: 'text',
    flag: 'from',
    value: 'FILE',
    help: 'the content, - for standard input: raw or sparse (Android), or compressed by gzip, zstd or xz (default: zeros)',
  },
  sha256: {
    kind: 'text',
    flag: 'sha256',
    value: 'HEX',
    help: 'the SHA-256 that the unpacked content must have',
  },
  maxExtents: {
    kind: 'count',
    flag: 'max-extents',
    value: 'N',
    help: 'the most extents that a file may have',
  },
  maxFileSize: {
    kind: 'size',
    flag: 'max-file-size',
    value: 'SIZE',
    help: 'split a larger image: FILE.0000, FILE.0001 ...',
  },
  overwrite: { kind: 'on', flag: 'overwrite', help: 'replace an image that exists' },
  metadata: {
    kind: 'text',
    flag: 'metadata',
    value: 'DIRECTORY',
    help: 'where it is recorded what the store has (default: .dmloop in its directory)',
  },
  bootKind: {
    kind: 'choice',
    flag: 'for',
    choices: ['initramfs-tools', 'dracut', 'systemd', 'dm-mod.create'],
    help: 'what maps them',
  },
  wrap: {
    kind: 'text',
    flag: 'wrap',
    value: 'NAME=DEVICE',
    help: 'make a wrapper that no image needs yet, as of the root filesystem’s partition',
  },
  root: {
    kind: 'text',
    flag: 'root',
    value: 'DIRECTORY',
    help: 'write the files there, for another machine (default: /)',
  },
  superName: {
    kind: 'text',
    flag: 'super',
    value: 'NAME',
    help: 'the label of the partition that is to have the metadata',
  },
  superSize: {
    kind: 'size',
    flag: 'super-size',
    value: 'SIZE',
    help: 'the size of that partition',
  },
  slot: {
    kind: 'count',
    flag: 'slot',
    value: 'N',
    help: 'which of the tables at the start of a partition, from 0 on (default: 0)',
  },
  table: { kind: 'on', flag: 'table', help: 'print only the table, as dmsetup create reads it' },
  all: { kind: 'on', flag: 'all', short: 'a', help: 'every mapping of this machine' },
  bytes: { kind: 'on', flag: 'bytes', short: 'b', help: 'print sizes in bytes' },
  noheadings: { kind: 'on', flag: 'noheadings', short: 'n', help: 'print no headings' },
  json: { kind: 'on', flag: 'json', short: 'J', help: 'print JSON' },
  help: { kind: 'on', flag: 'help', short: 'h', help: 'print this help' },
} as const satisfies Record<string, Option>

export type OptionKey = keyof typeof OPTIONS

/** What the library gets for an option. */
type ValueOf<O> = O extends { kind: 'on' }
  ? true
  : O extends { kind: 'off' }
    ? false
    : O extends { kind: 'size' | 'count' | 'seconds' }
      ? number
      : O extends { choices: readonly (infer Choice)[] }
        ? Choice
        : string

/** What was given of some options. */
export type Values<Key extends OptionKey> = { [K in Key]?: ValueOf<(typeof OPTIONS)[K]> }

export const optionOf = (key: OptionKey): Option => OPTIONS[key]

/** What every verb takes. */
export const COMMON: readonly OptionKey[] = ['json', 'help']

/** Options of planFile and mapFile. */
export const PLAN_OPTIONS = [
  'offset',
  'length',
  'readOnly',
  'holes',
  'backend',
  'blockSize',
  'guard',
] as const satisfies OptionKey[]
