// Unpacks in a worker thread what only WebAssembly unpacks, which would block the event loop.
import { Worker } from 'node:worker_threads'
import { untilAborted, type ByteSource } from './byte-source.js'
import type { ToWorker, FromWorker, WorkerFormat } from './decompress-worker.js'
import type { PackedInput } from './packed-input.js'
import { Queue } from './queue.js'

type Outcome =
  | Exclude<FromWorker, { type: 'input' }>
  /** The source of the input, or the worker itself, has failed. */
  | { type: 'error'; error: unknown }

export class WorkerSource implements ByteSource {
  readonly size = undefined
  readonly #worker: Worker
  readonly #input: PackedInput
  readonly #signal: AbortSignal | undefined
  /** What the worker has unpacked and nobody has asked for; no more than it has buffers. */
  readonly #outcomes = new Queue<Outcome>()
  /** The buffer that the caller of `next` has. */
  #lent: ArrayBuffer | undefined
  /** Once the worker has said something: its modules are loaded, or it has ended. */
  readonly #loaded: Promise<unknown>

  constructor(format: WorkerFormat, input: PackedInput, signal: AbortSignal | undefined) {
    this.#input = input
    this.#signal = signal
    this.#worker = new Worker(new URL('./decompress-worker.js', import.meta.url), {
      workerData: format,
      // It needs nothing of what the program was started with, a debugger's port or a loader.
      execArgv: [],
      // Each piece that xz-decompress unpacks is garbage, and so is collected sooner.
      resourceLimits: { maxYoungGenerationSizeMb: 2 },
    })
    // Only while somebody waits for it does it keep the process alive.
    this.#worker.unref()
    this.#worker.on('message', (message: FromWorker) => this.#receive(message))
    this.#worker.on('error', (error) => this.#fail(error))
    this.#worker.on('exit', () => this.#fail(new Error('the thread that unpacks has ended')))
    this.#loaded = new Promise((resolve) => {
      this.#worker.once('message', resolve).once('exit', resolve)
    })
  }

  async next(): Promise<Uint8Array | undefined> {
    this.#giveBack()
    this.#worker.ref()
    try {
      const outcome = await untilAborted(this.#outcomes.take(), this.#signal)
      return this.#result(outcome)
    } finally {
      this.#worker.unref()
    }
  }

  async close(): Promise<void> {
    // Node leaves the file of a module open if its worker is terminated while that is being loaded.
    const ended = this.#loaded.then(() => this.#worker.terminate())
    if (this.#signal?.aborted === true) return
    this.#worker.ref()
    await ended
  }

  #result(outcome: Outcome): Uint8Array | undefined {
    switch (outcome.type) {
      case 'output':
        this.#lent = outcome.buffer
        return new Uint8Array(outcome.buffer, 0, outcome.length)
      case 'failure':
        throw outcome.reason === undefined
          ? this.#input.truncated()
          : this.#input.invalid(outcome.reason)
      case 'error':
        throw outcome.error
      case 'end':
        // Asked again, it says so again.
        this.#outcomes.put(outcome)
        return undefined
    }
  }

  #receive(message: FromWorker): void {
    if (message.type === 'input') {
      this.#feed(message.buffer).catch((error: unknown) => this.#fail(error))
    } else {
      this.#outcomes.put(message)
    }
  }

  async #feed(used: ArrayBuffer | undefined): Promise<void> {
    const piece = await this.#input.next()
    if (!piece) {
      this.#post({ type: 'input', data: undefined }, [])
      return
    }
    // The source uses its own buffer again.
    const buffer = used && used.byteLength >= piece.length ? used : new ArrayBuffer(piece.length)
    const data = new Uint8Array(buffer, 0, piece.length)
    data.set(piece)
    this.#post({ type: 'input', data }, [buffer])
  }

  #giveBack(): void {
    const buffer = this.#lent
    this.#lent = undefined
    if (buffer) this.#post({ type: 'buffer', buffer }, [buffer])
  }

  #post(message: ToWorker, transfer: ArrayBuffer[]): void {
    this.#worker.postMessage(message, transfer)
  }

  #fail(error: unknown): void {
    this.#outcomes.put({ type: 'error', error })
  }
}
