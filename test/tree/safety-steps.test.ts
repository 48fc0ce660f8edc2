// That npm run test:mutations finds each safety step where it is now, and its guest.
import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { GUESTS, titleOf } from '../guests.js'
import { projectPath } from '../tools/docs.js'

interface Step {
  step: string
  file: string
  from: string
  to: string
  guest: string
}

const module = pathToFileURL(projectPath('test/tools/safety-steps.mjs')).href
const { STEPS } = (await import(module)) as { STEPS: Step[] }

const titles = new Set(GUESTS.map(titleOf))

await t.test('safety steps', (t) => {
  for (const { step, file, from, to, guest } of STEPS) {
    const found = readFileSync(projectPath(`lib/${file}.ts`), 'utf8').split(from).length - 1
    t.equal(found, 1, step)
    t.not(from, to)
    t.ok(titles.has(guest), guest)
  }
  t.equal(new Set(STEPS.map(({ step }) => step)).size, STEPS.length, 'each has a name of its own')
  t.end()
})
