/** What maps images from an initramfs of Debian. */
export const KINDS = ['initramfs-tools', 'dracut'] as const

export type Kind = (typeof KINDS)[number]
