// Another process for tests to meet: peer.js map FILE NAME | unmap NAME |
// loop FILE NAME | plan FILE; map-as-nobody and plan-as-nobody give root up first.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import { mapFile, openMapping, planFile, type DmloopError } from 'dmloop'

const [verb, first = '', name = ''] = process.argv.slice(2)

if (verb?.endsWith('-as-nobody') === true) {
  // Only now: another user need not be able to read this directory.
  const NOBODY = 65534
  process.setgroups?.([])
  process.setgid?.(NOBODY)
  process.setuid?.(NOBODY)
}

try {
  if (verb === 'plan-as-nobody' || verb === 'plan') {
    console.log(JSON.stringify(await planFile(first)))
  } else if (verb === 'map' || verb === 'map-as-nobody') {
    console.log(`mapped ${(await mapFile(first, { name })).path}`)
  } else if (verb === 'map-and-defer') {
    const device = await mapFile(first, { name })
    // Somebody else has it open for a little longer than this process lives.
    const holder = spawn('sleep', ['1'], {
      stdio: [openSync(device.path, 'r'), 'ignore', 'ignore'],
      detached: true,
    })
    await once(holder, 'spawn')
    holder.unref()
    await device.unmap({ deferred: true })
    console.log('deferred')
  } else if (verb === 'unmap') {
    await (await openMapping(first)).unmap()
    console.log('unmapped')
  } else {
    console.log('ready')
    for (;;) await (await mapFile(first, { name })).unmap()
  }
} catch (error) {
  console.log((error as DmloopError).code)
}
