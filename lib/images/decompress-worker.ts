// The thread that unpacks. It asks for each piece of input, and writes to a few buffers that go back and forth.
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'
import { DecodeError, type Decoder, type Input } from './decoder.js'
import { unxz } from './unxz.js'
import { unzstd } from './unzstd.js'

const DECODERS = { zstd: unzstd, xz: unxz } satisfies Record<string, Decoder>

export type WorkerFormat = keyof typeof DECODERS

export type ToWorker =
  /** undefined: that was all. */
  | { type: 'input'; data: Uint8Array | undefined }
  /** To be written to again. */
  | { type: 'buffer'; buffer: ArrayBuffer }

export type FromWorker =
  /** Asks for the next piece of input. */
  | { type: 'input' }
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
  readonly #free = Array.from({ length: BUFFERS }, () => new ArrayBuffer(BUFFER_SIZE))
  readonly #inputs: (Uint8Array | undefined)[] = []
  #wake: () => void = () => undefined
  #filled = 0

  constructor(port: MessagePort) {
    this.#port = port
    port.on('message', (message: ToWorker) => {
      if (message.type === 'input') this.#inputs.push(message.data)
      else this.#free.push(message.buffer)
      this.#wake()
    })
  }

  async input(): Promise<Uint8Array | undefined> {
    this.post({ type: 'input' })
    while (this.#inputs.length === 0) await this.#message()
    return this.#inputs.shift()
  }

  /** Takes what was unpacked, and waits while there is no room for it. */
  async write(output: Uint8Array): Promise<void> {
    for (let rest = output; rest.length > 0;) {
      const buffer = await this.#buffer()
      const part = rest.subarray(0, BUFFER_SIZE - this.#filled)
      new Uint8Array(buffer).set(part, this.#filled)
      this.#filled += part.length
      rest = rest.subarray(part.length)
      if (this.#filled === BUFFER_SIZE) this.flush()
    }
  }

  flush(): void {
    if (this.#filled === 0) return
    const buffer = this.#free.shift()
    if (buffer) this.post({ type: 'output', buffer, length: this.#filled }, [buffer])
    this.#filled = 0
  }

  post(message: FromWorker, transfer: ArrayBuffer[] = []): void {
    this.#port.postMessage(message, transfer)
  }

  /** The buffer that is being filled. */
  async #buffer(): Promise<ArrayBuffer> {
    for (;;) {
      const [buffer] = this.#free
      if (buffer) return buffer
      await this.#message()
    }
  }

  #message(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
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

if (parentPort) await unpack(new Peer(parentPort), DECODERS[workerData as WorkerFormat])
