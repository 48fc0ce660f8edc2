/** Exit statuses of the command. */
export const STATUS = { done: 0, refused: 1, usage: 2, failed: 3 } as const
