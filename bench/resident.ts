// What a call costs the process in memory.
import { readFileSync, writeFileSync } from 'node:fs'

/** Bytes (proc_pid_status(5)): VmRSS is now, VmHWM the most since it was reset. */
const resident = (which: 'VmRSS' | 'VmHWM'): number => {
  const status = readFileSync('/proc/self/status', 'utf8')
  return Number(new RegExp(`${which}:\\s+(\\d+)`).exec(status)?.[1] ?? NaN) * 1024
}

/** Starts to measure. What it returns tells the bytes that the process has had at most besides those of now. */
export function watchMemory(): () => number {
  // proc_pid_clear_refs(5): 5 resets VmHWM.
  writeFileSync('/proc/self/clear_refs', '5')
  const idle = resident('VmRSS')
  return () => resident('VmHWM') - idle
}
