// What the content of an image is made of.

/** A run of an image: its bytes, or one pattern again and again. */
export type Piece =
  | {
      /** At least one byte; valid until the next piece is asked for. */
      data: Uint8Array
    }
  | {
      /** Four bytes, repeated; all zeros for what has no content. */
      fill: Uint8Array
      /** Bytes; a multiple of 4, and more than 0. */
      length: number
    }
