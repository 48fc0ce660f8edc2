// What the guest charges for the small things that a call is made of: they are what ratios to a floor of few
// system calls are made of, and cost a fraction of that on a machine of its own.
import { native } from '#lib/kernel/native.js'
import { floor, milliseconds, PAIRS, report, spread } from './measure.js'
import type { Spread } from './results.js'

const TRIPS = 200

/** Nothing but the way: device-mapper says its version at once. */
async function trips(): Promise<void> {
  for (let trip = 0; trip < TRIPS; trip++) await native.dmVersion()
}

const microseconds = (values: readonly number[]): Spread => spread(values.map((ms) => ms * 1000))

const [calls, touches, ways]: [number[], number[], number[]] = [[], [], []]
for (let round = 0; round < PAIRS; round++) {
  calls.push(floor('call'))
  touches.push(floor('touch'))
  ways.push((await milliseconds(trips)) / TRIPS)
}
report('guest', 'What the guest charges', [
  { what: 'a system call', µs: microseconds(calls) },
  { what: 'the first touch of a page', µs: microseconds(touches) },
  { what: 'a trip to a worker thread and back', µs: microseconds(ways) },
])
