// Another process for tests to meet: peer.js plan FILE | map FILE NAME | unmap NAME | loop FILE NAME.
import { mapFile, openMapping, planFile, type DmloopError } from 'dmloop'

const [verb, first = '', name = ''] = process.argv.slice(2)

try {
  if (verb === 'plan') {
    console.log(JSON.stringify(await planFile(first)))
  } else if (verb === 'map') {
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
