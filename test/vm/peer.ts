// Another process for tests to meet: peer.js map FILE NAME | unmap NAME | loop FILE NAME.
import { mapFile, openMapping, type DmloopError } from 'dmloop'

const [verb, first = '', name = ''] = process.argv.slice(2)

try {
  if (verb === 'map') {
    console.log(`mapped ${(await mapFile(first, { name })).path}`)
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
