// Another process for tests to meet: peer.js map FILE [NAME] | map-loop FILE | unmap NAME |
// map-and-defer FILE NAME | extend NAME | loop FILE NAME | plan FILE | cookie | cookies; map-as-nobody and
// plan-as-nobody give root up first.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import { mapFile, openMapping, planFile, type DmloopError } from 'dmloop'
import { native, result } from '#lib/kernel/native.js'

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
    console.log(`mapped ${(await mapFile(first, name === '' ? {} : { name })).path}`)
  } else if (verb === 'map-loop') {
    console.log(`mapped ${(await mapFile(first, { backend: 'loop' })).path}`)
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
  } else if (verb === 'extend') {
    await (await openMapping(first)).extend()
    console.log('extended')
  } else if (verb === 'cookie') {
    await result(native.createCookie())
    console.log('made')
    setInterval(() => undefined, 1000)
  } else if (verb === 'cookies') {
    let whole = 0
    for (let round = 0; round < 500; round++) {
      const { handle } = await result(native.createCookie())
      if ((await result(native.pendingEvents(handle))) === 1) whole++
      await result(native.destroyCookie(handle))
    }
    console.log(whole)
  } else {
    console.log('ready')
    for (;;) await (await mapFile(first, { name })).unmap()
  }
} catch (error) {
  console.log((error as DmloopError).code)
}
