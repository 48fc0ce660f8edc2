// What the decoders of compressed formats have in common.

/**
 * The next piece of what is to be unpacked, not empty; undefined: that was all. It is valid until the next but one is
 * asked for.
 */
export type Input = () => Promise<Uint8Array | undefined>

/** Yields what is unpacked; each piece is valid until the next one is asked for. */
export type Decoder = (input: Input) => AsyncGenerator<Uint8Array, void>

/** The input is not what it should be. */
export class DecodeError extends Error {
  /** What is wrong; undefined: the input ends too early. */
  readonly reason: string | undefined

  constructor(reason?: string) {
    super(reason ?? 'ends too early')
    this.reason = reason
  }
}
