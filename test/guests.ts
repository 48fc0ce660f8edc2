// The guests that tests run in: which test, with which options.
export interface Guest {
  /** The program in test/vm, and its arguments. */
  test: string
  args?: string[]
  /** Options of vm/cli.ts. */
  options: string[]
  /** The kernels that it is for, where it is not for every one. */
  on?: readonly string[]
}

export const UML = 'User-Mode Linux'
/** Where f2fs pins a file that has blocks. What newer ones pin is in newer-kernel. */
const PINS_ANY_FILE = [UML, '6.1']

/** The kernel's default code page and character set are modules of their own. */
const VFAT = ['vfat', 'nls_cp437', 'nls_iso8859-1', 'nls_ascii']
const MATRIX_MODULES = [
  ...VFAT,
  ...['btrfs', 'f2fs', 'dm-delay', 'overlay', 'fuse', 'squashfs', 'erofs', '9p', '9pnet_fd'],
]

export const GUESTS: Guest[] = [
  { test: 'nodes', options: ['--udev', '--disk=100'] },
  { test: 'bytes', args: ['ext4'], options: ['--disk=400', '--memory=3G'] },
  { test: 'bytes', args: ['xfs'], options: ['--disk=400', '--memory=3G'] },
  {
    test: 'bytes',
    args: ['f2fs'],
    options: ['--disk=400', '--memory=3G', '--modules=f2fs'],
    on: PINS_ANY_FILE,
  },
  {
    test: 'bytes',
    args: ['vfat'],
    options: ['--disk=400', '--memory=3G', `--modules=${VFAT.join(',')}`],
  },
  { test: 'event-loop', options: ['--disk=1200', '--memory=4G'] },
  { test: 'nodes', options: ['--disk=100'] },
  { test: 'guard', args: ['ext4'], options: ['--disk=400'] },
  { test: 'guard', args: ['xfs'], options: ['--disk=400'] },
  { test: 'guard', args: ['f2fs'], options: ['--disk=400', '--modules=f2fs'], on: PINS_ANY_FILE },
  ...['identity', 'volumes'].flatMap((test): Guest[] => [
    { test, args: ['ext4'], options: ['--disk=100'] },
    { test, args: ['xfs'], options: ['--disk=400'] },
    { test, args: ['f2fs'], options: ['--disk=200', '--modules=f2fs'], on: PINS_ANY_FILE },
  ]),
  { test: 'records', args: ['ext4'], options: ['--disk=100'] },
  { test: 'records', args: ['xfs'], options: ['--disk=400'] },
  { test: 'stale', args: ['ext4'], options: ['--disk=400'] },
  { test: 'stale', args: ['xfs'], options: ['--disk=400'] },
  { test: 'stale', args: ['f2fs'], options: ['--disk=400', '--modules=f2fs'], on: PINS_ANY_FILE },
  { test: 'kill', args: ['ext4'], options: ['--disk=100'] },
  { test: 'kill', args: ['xfs'], options: ['--disk=400', '--udev'] },
  { test: 'kill', args: ['ext4', 'loop'], options: ['--disk=100'] },
  { test: 'kill', args: ['ext4', 'partitions'], options: ['--disk=100'] },
  { test: 'kill', args: ['ext4', 'fence'], options: ['--disk=100'] },
  { test: 'kill', args: ['f2fs'], options: ['--disk=100', '--modules=f2fs'], on: PINS_ANY_FILE },
  ...['ext4', 'btrfs', 'vfat'].map((filesystem) => ({
    test: 'kill',
    args: [filesystem, 'swapfile'],
    options: ['--disk=200', `--modules=${['btrfs', ...VFAT].join(',')}`],
  })),
  ...['ext4', 'xfs', 'f2fs', 'vfat', 'btrfs'].map((filesystem) => ({
    test: 'swap-guard',
    args: [filesystem],
    options: ['--disk=400', `--modules=${['f2fs', 'btrfs', ...VFAT].join(',')}`],
  })),
  { test: 'btrfs', options: ['--disk=500', '--memory=3G', '--modules=btrfs'] },
  ...['ext4', 'xfs', 'f2fs', 'vfat'].map((filesystem) => ({
    test: 'create',
    args: [filesystem],
    options: ['--disk=400', '--memory=3G', `--modules=${['f2fs', ...VFAT].join(',')}`],
  })),
  { test: 'provision', args: ['ext4'], options: ['--disk=400', '--memory=3G'] },
  { test: 'provision', args: ['xfs'], options: ['--disk=400', '--memory=3G'] },
  {
    test: 'provision',
    args: ['f2fs'],
    options: ['--disk=400', '--memory=3G', '--modules=f2fs'],
    on: PINS_ANY_FILE,
  },
  { test: 'image-kill', args: ['ext4'], options: ['--disk=100'] },
  { test: 'store', args: ['ext4'], options: ['--disk=400', '--memory=2G'] },
  { test: 'store', args: ['xfs'], options: ['--udev', '--disk=400', '--memory=2G'] },
  {
    test: 'store',
    args: ['f2fs'],
    options: ['--disk=400', '--memory=2G', '--modules=f2fs'],
    on: PINS_ANY_FILE,
  },
  { test: 'store-kill', args: ['ext4'], options: ['--disk=100'] },
  { test: 'store-boot', options: ['--disk=100', '--memory=2G'] },
  { test: 'store-lp', options: ['--disk=100', '--memory=2G'] },
  { test: 'fence', args: ['ext4'], options: ['--disk=400', '--memory=2G'] },
  { test: 'fence', args: ['xfs'], options: ['--disk=400', '--memory=2G'] },
  { test: 'store-crowd', options: ['--disk=200', '--memory=3G'] },
  // One runs qemu itself.
  { test: 'examples', options: ['--disk=200', '--memory=3G', '--modules=dm-verity'], on: [UML] },
  {
    test: 'large-image',
    options: ['--disk=1', '--memory=2G', `--modules=${['zram', ...VFAT].join(',')}`],
  },
  { test: 'matrix', options: ['--disk=400', `--modules=${MATRIX_MODULES.join(',')}`] },
  { test: 'lp-metadata', options: ['--disk=100'] },
  { test: 'proof', options: ['--disk=100'] },
  { test: 'overlap', options: ['--disk=100'] },
  { test: 'nested', options: ['--disk=100'] },
  { test: 'filesystem-files', options: ['--disk=400', '--modules=f2fs'] },
  { test: 'agreement', options: ['--udev', '--disk=400'] },
  { test: 'loop', options: ['--udev', '--disk=400'] },
  { test: 'recovery', options: ['--udev', '--disk=100'] },
  { test: 'udev', options: ['--udev', '--disk=100'] },
  { test: 'wrap', options: ['--udev', '--disk=100'] },
  { test: 'partition-tables', options: ['--udev', '--disk=200'] },
  { test: 'partition-tables', options: ['--disk=200'] },
  { test: 'partitions', options: ['--udev', '--disk=200'] },
  { test: 'partitions', options: ['--disk=200'] },
  { test: 'crowd', options: ['--udev', '--disk=100'] },
  { test: 'namespaces', options: ['--disk=100'] },
  { test: 'stack', options: ['--disk=600', '--memory=4G'] },
  { test: 'refusals', options: ['--udev', '--disk=400', '--modules=dm-delay'] },
  {
    test: 'stuck',
    args: ['ext4'],
    options: [
      ...['--disk=100', '--udev'],
      `--modules=${['dm-delay', '9p', '9pnet_fd', ...VFAT].join(',')}`,
    ],
  },
  { test: 'stuck', args: ['xfs'], options: ['--disk=400', '--modules=dm-delay'] },
  { test: 'errors', options: ['--udev', '--disk=400'] },
  { test: 'command', options: ['--udev', '--disk=100'] },
  { test: 'command-images', options: ['--udev', '--disk=100'] },
  { test: 'look-only', options: ['--disk=100'] },
  { test: 'native', options: ['--udev', '--disk=100'] },
  { test: 'newer-kernel', options: ['--disk=400', '--modules=f2fs'], on: ['6.12'] },
]

/** What a guest is called: no two are called the same. */
export const titleOf = ({ test, args = [], options }: Guest): string =>
  [test, ...args, ...options.filter((option) => option === '--udev')].join(' ')
