// The CRC-32 of IEEE 802.3 for what is too long to go through byte by byte.
import { crc32 } from 'node:zlib'

// The 32 bits of a CRC are a polynomial over GF(2), its lowest power in the highest bit, and appending a bit to
// the data multiplies it by x (RFC 1952, section 8, has the polynomial that it is reduced by).
const POLYNOMIAL = 0xedb88320
const ONE = 0x80000000
/** What a byte multiplies by. */
const X8 = ONE >>> 8

/** The product of two polynomials. */
function multiply(first: number, second: number): number {
  let product = 0
  let power = second
  for (let bit = ONE; bit !== 0; bit >>>= 1) {
    if (first & bit) product ^= power
    power = power & 1 ? (power >>> 1) ^ POLYNOMIAL : power >>> 1
  }
  return product >>> 0
}

/** What `length` bytes multiply by. */
function shiftOf(length: number): number {
  let product = ONE
  let square = X8
  for (let left = length; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) product = multiply(product, square)
    square = multiply(square, square)
  }
  return product
}

/** The CRC-32 of data whose first part has one CRC, and whose second part, of `length` bytes, has the other. */
const joined = (first: number, second: number, length: number): number =>
  (multiply(first, shiftOf(length)) ^ second) >>> 0

/** The CRC-32 of all so far and a pattern that follows, `length` bytes of it: a multiple of the pattern's. */
export function crc32OfFill(soFar: number, pattern: Uint8Array, length: number): number {
  let crc = soFar
  let run = crc32(pattern)
  let bytes = pattern.length
  for (let left = length / pattern.length; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) crc = joined(crc, run, bytes)
    run = joined(run, run, bytes)
    bytes *= 2
  }
  return crc
}
