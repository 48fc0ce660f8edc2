// Loads the native addon: the one that was built here, or else the prebuilt one of this kind of system.
import { closeSync, openSync, readSync } from 'node:fs'
import bindings from 'bindings'

/** Of an ELF file of 64 bits, little-endian; elf(5). */
const FILE_HEADER = { size: 64, programHeaders: 32, programHeaderSize: 54, programHeaderCount: 56 }
const PROGRAM_HEADER = { type: 0, offset: 8, size: 32 }
const PT_INTERP = 3

/** The program that loads the one that is running, and its libraries. */
function interpreter(): string {
  const program = openSync('/proc/self/exe', 'r')
  const read = (offset: number, size: number): Buffer => {
    const bytes = Buffer.alloc(size)
    readSync(program, bytes, 0, size, offset)
    return bytes
  }
  try {
    const file = read(0, FILE_HEADER.size)
    const at = Number(file.readBigUInt64LE(FILE_HEADER.programHeaders))
    const size = file.readUInt16LE(FILE_HEADER.programHeaderSize)
    const count = file.readUInt16LE(FILE_HEADER.programHeaderCount)
    const headers = read(at, size * count)
    for (let header = 0; header < headers.length; header += size) {
      if (headers.readUInt32LE(header + PROGRAM_HEADER.type) !== PT_INTERP) continue
      const offset = Number(headers.readBigUInt64LE(header + PROGRAM_HEADER.offset))
      return read(offset, Number(headers.readBigUInt64LE(header + PROGRAM_HEADER.size))).toString()
    }
    return ''
  } finally {
    closeSync(program)
  }
}

/**
 * The folder of prebuilds/ for this system. A C library is known by its loader, which Node names; to
 * ask process.report for it takes a hundred times as long.
 */
function prebuilt(): string {
  const libc = interpreter().includes('/ld-musl-') ? 'musl' : 'glibc'
  return `${process.platform}-${process.arch}-${libc}`
}

export function loadAddon(): unknown {
  return bindings({
    bindings: 'dmloop',
    try: [
      ['module_root', 'build', 'Release', 'bindings'],
      ['module_root', 'prebuilds', prebuilt(), 'bindings'],
    ],
  })
}
