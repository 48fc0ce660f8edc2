// The thread that unpacks. It asks for each piece of input, and writes to a few buffers that go back and forth.
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'
import { DecodeError, type Decoder, type Input } from './decoder.js'
import { Queue } from './queue.js'

/** Each loads its own library. */
const DECODERS = {
  zstd: async () => (await import('./unzstd.js')).unzstd,
  xz: async () => (await import('./unxz.js')).unxz,
} satisfies Record<string, () => Promise<Decoder>>

export type WorkerFormat = keyof typeof DECODERS

export type ToWorker =
  /** undefined: that was all. */
  | { type: 'input'; data: Uint8Array<ArrayBuffer> | undefined }
  /** To be written to again. */
  | { type: 'buffer'; buffer: ArrayBuffer }

export type FromWorker =
  /** Asks for the next piece of input, and gives back a buffer for it. */
  | { type: 'input'; buffer: ArrayBuffer | undefined }
  | { type: 'output'; buffer: ArrayBuffer; length: number }
  | { type: 'end' }
  /** What is wrong with the last piece of input; undefined: it is not the last one. */
  | { type: 'failure'; reason: string | undefined }

/** How much is unpacked before anybody asks for it: this many buffers of this many bytes. */
const BUFFERS = 3
const BUFFER_SIZE = 1 << 20

/** The other thread: gives input, takes output. */
class Peer {
  readonly #port: MessagePort
  readonly #inputs = new Queue<{ data: Uint8Array<ArrayBuffer> | undefined }>()
  /** Of the last pieces of input, the older one first. */
  #pieces: (ArrayBuffer | undefined)[] = [undefined, undefined]
  readonly #buffers = new Queue<ArrayBuffer>()
  /** What is being filled, and how far. */
  #buffer: ArrayBuffer | undefined
  #filled = 0

  constructor(port: MessagePort) {
    this.#port = port
    for (let count = 0; count < BUFFERS; count++) this.#buffers.put(new ArrayBuffer(BUFFER_SIZE))
    port.on('message', (message: ToWorker) => {
      if (message.type === 'input') this.#inputs.put(message)
      else this.#buffers.put(message.buffer)
    })
  }

  async input(): Promise<Uint8Array | undefined> {
    // Not the last one: where that was all, xz-decompress looks at it once more.
    const [buffer, last] = this.#pieces
    this.post({ type: 'input', buffer }, buffer ? [buffer] : [])
    const { data } = await this.#inputs.take()
    this.#pieces = [last, data?.buffer]
    return data
  }

  /** Takes what was unpacked, and waits while there is no room for it. */
  async write(output: Uint8Array): Promise<void> {
    for (let rest = output; rest.length > 0;) {
      this.#buffer ??= await this.#buffers.take()
      const part = rest.subarray(0, BUFFER_SIZE - this.#filled)
      new Uint8Array(this.#buffer).set(part, this.#filled)
      this.#filled += part.length
      rest = rest.subarray(part.length)
      if (this.#filled === BUFFER_SIZE) this.flush()
    }
  }

  flush(): void {
    const buffer = this.#buffer
    if (buffer) this.post({ type: 'output', buffer, length: this.#filled }, [buffer])
    this.#buffer = undefined
    this.#filled = 0
  }

  post(message: FromWorker, transfer: ArrayBuffer[] = []): void {
    this.#port.postMessage(message, transfer)
  }
}

async function unpack(peer: Peer, decode: Decoder): Promise<void> {
  const input: Input = () => peer.input()
  try {
    for await (const output of decode(input)) await peer.write(output)
    peer.flush()
    peer.post({ type: 'end' })
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    peer.flush()
    peer.post({ type: 'failure', reason: error.reason })
  }
}

if (parentPort) {
  const decode = await DECODERS[workerData as WorkerFormat]()
  await unpack(new Peer(parentPort), decode)
}
