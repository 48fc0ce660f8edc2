#!/usr/bin/env node
// The command of the package.
import { STATUS } from './status.js'

/** The reader of a pipe may end first, as head does: what the command does goes on, and its status says so. */
function ignoreClosedPipe(stream: NodeJS.WriteStream): void {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') return
    process.exitCode = STATUS.failed
    if (stream !== process.stderr) process.stderr.write(`dmloop: ${error.message}\n`)
  })
}

ignoreClosedPipe(process.stdout)
ignoreClosedPipe(process.stderr)
try {
  const { runCommand } = await import('./command.js')
  const status = await runCommand(process.argv.slice(2), process)
  process.exitCode ||= status
} catch (error) {
  // The addon that could not be loaded.
  process.stderr.write(`dmloop: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = STATUS.failed
}
