/** What must be taken back if a later step fails: run in reverse, every step whatever the others do. */
export class Undo {
  readonly #steps: (() => Promise<unknown>)[] = []

  onFailure(step: () => Promise<unknown>): void {
    this.#steps.push(step)
  }

  /** Runs the steps; their own errors are returned, for the failure that is being reported matters more. */
  async run(): Promise<unknown[]> {
    const errors: unknown[] = []
    for (const step of this.#steps.splice(0).reverse()) {
      await step().catch((error: unknown) => errors.push(error))
    }
    return errors
  }
}
