/** The steps that undo what has been done so far, if a later step fails. */
export class Undo {
  readonly #steps: (() => Promise<unknown>)[] = []
  /** Whether a step of the undoing has failed. */
  failed = false

  onFailure(step: () => Promise<unknown>): void {
    this.#steps.push(step)
  }

  /** Undoes everything after an error. If that fails as well, its error becomes the cause of the first. */
  async rollBack(error: unknown): Promise<void> {
    const failure = await this.#run()
    if (failure !== undefined && error instanceof Error) error.cause ??= failure
  }

  /**
   * Runs the steps, the last one first, until one fails, and returns its error. Earlier steps depend on it: a
   * file must not be released while its device exists.
   */
  async #run(): Promise<unknown> {
    for (const step of this.#steps.splice(0).reverse()) {
      try {
        await step()
      } catch (error) {
        this.failed = true
        return error
      }
    }
    return undefined
  }
}
