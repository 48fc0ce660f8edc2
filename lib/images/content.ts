// What an image is made from, unpacked: pieces in their order, whatever format they come in.

/** A run of an image: its bytes, or one pattern again and again. */
export type Piece =
  | {
      /** Valid until the next piece is asked for. */
      data: Uint8Array
    }
  | {
      /** Four bytes, repeated; all zeros for what has no content. */
      fill: Uint8Array
      /** Bytes; a multiple of 4. */
      length: number
    }

export interface Content {
  /** Bytes, where they are known before the content is read. */
  size: number | undefined
  /** To be read once, and ended (`return`) where it is not read to its end. */
  pieces: AsyncGenerator<Piece, void>
}
