// Unpacks xz (xz-file-format.txt): XZ Embedded as WebAssembly. It goes from stream to stream, passes over their
// padding, and compares CRC-32 and CRC-64, the index and the footer.
import { ReadableStream } from 'node:stream/web'
import xz from 'xz-decompress'
import { DecodeError, type Input } from './decoder.js'

/** enum xz_ret of XZ Embedded's linux/include/linux/xz.h, as the package reports it. */
const MESSAGE = /^get_next_output failed with error code (\d+)$/
const BUF_ERROR = 8
const ERRORS: Partial<Record<number, string>> = {
  3: 'there is not enough memory for its dictionary',
  4: 'its dictionary is larger than 64 MiB',
  5: 'there is something other than a stream of xz',
  6: 'it uses SHA-256, or a filter other than LZMA2: pack it with xz --check=crc64',
}

export async function* unxz(input: Input): AsyncGenerator<Uint8Array, void> {
  const packed = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const piece = await input()
        if (piece) controller.enqueue(piece)
        else controller.close()
      },
    },
    { highWaterMark: 0 },
  )
  const unpacked = new xz.XzReadableStream(packed)
  const reader = unpacked.getReader()
  for (;;) {
    const { done, value } = await reader.read().catch((error: unknown) => {
      throw explain(error)
    })
    if (done) return
    if (value.length > 0) yield value
  }
}

function explain(error: unknown): unknown {
  const code = error instanceof Error ? Number(MESSAGE.exec(error.message)?.[1]) : NaN
  if (Number.isNaN(code)) return error
  return code === BUF_ERROR ? new DecodeError() : new DecodeError(ERRORS[code] ?? 'damaged')
}
