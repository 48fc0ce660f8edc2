/** What must be taken back if a later step fails, in reverse. */
export class Undo {
  readonly #steps: (() => Promise<unknown>)[] = []
  /** Whether something could not be taken back. */
  failed = false

  onFailure(step: () => Promise<unknown>): void {
    this.#steps.push(step)
  }

  /** Takes everything back after an error. What could not be is told with it, as its cause. */
  async after(error: unknown): Promise<void> {
    const failure = await this.#run()
    if (failure !== undefined && error instanceof Error) error.cause ??= failure
  }

  /**
   * Runs the steps. The first that fails is the last to run, and its error is returned: what is below it
   * rests on what could not be taken away (a file must not be let go while its device is there).
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
