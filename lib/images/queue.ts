/** What one side puts in and one other takes out, in order. */
export class Queue<T> {
  readonly #items: T[] = []
  #taker: ((item: T) => void) | undefined

  put(item: T): void {
    const taker = this.#taker
    this.#taker = undefined
    if (taker) taker(item)
    else this.#items.push(item)
  }

  /** The next item, when there is one. One at a time waits for it. */
  async take(): Promise<T> {
    const [item] = this.#items.splice(0, 1)
    if (item !== undefined) return item
    return new Promise((resolve) => {
      this.#taker = resolve
    })
  }
}
