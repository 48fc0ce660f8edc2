// The documents say what the code says: tables, codes, options, examples and links.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import * as dmloop from 'dmloop'
import { generalHelp, imageHelp, verbHelp } from '#lib/cli/help.js'
import { IMAGE_VERBS } from '#lib/cli/image/verbs.js'
import { VERBS } from '#lib/cli/verbs.js'
import { parseMapOptions, parseUnmapOptions, parseVerifyOptions } from '#lib/options.js'
import { parseCreateOptions, parseProvisionOptions } from '#lib/images/options.js'
import {
  parseExportBootOptions,
  parseLpExportOptions,
  parseLpImportOptions,
  parseStoreCreateOptions,
  parseStoreOptions,
} from '#lib/store/options.js'
import { POLICY } from '#lib/kernel/policy.js'
import { COMMAND, projectPath, TABLES, withHelp, withPolicyTables } from '../tools/docs.js'

const DOCUMENTS = ['.', 'docs'].flatMap((folder) =>
  readdirSync(projectPath(folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name)),
)
const read = (document: string): string => readFileSync(projectPath(document), 'utf8')

/** The cells of a line of a table, without what prettier pads them with. */
const cells = (line: string): string[] =>
  line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim())

/** The rows of all tables of a document that have this header. */
function rowsUnder(document: string, header: readonly string[]): string[][] {
  const lines = read(document).split('\n').map(cells)
  return lines.flatMap((line, start) => {
    if (line.join('|') !== header.join('|')) return []
    const end = lines.findIndex((each, index) => index > start && each.length === 0)
    return lines.slice(start + 2, end)
  })
}

const ALL_VERBS = [...VERBS, ...IMAGE_VERBS]

await t.test('the README is short', (t) => {
  t.ok(read('README.md').split('\n').length <= 120)
  t.end()
})

for (const [name, { document, header, rows }] of Object.entries(TABLES)) {
  await t.test(`the table of ${name}`, async (t) => {
    t.strictSame(rowsUnder(document, header), rows, `npm run docs writes ${document}`)
    t.equal(read(document), await withPolicyTables(document), 'and changes nothing else in it')
  })
}

await t.test('the help of the command', async (t) => {
  t.equal(read(COMMAND), await withHelp(COMMAND), `npm run docs writes ${COMMAND}`)
  for (const help of [generalHelp(), imageHelp()]) t.match(read(COMMAND), help, 'and it is there')
  for (const verb of ALL_VERBS) t.match(read(COMMAND), verbHelp(verb), verb.name)
})

await t.test('docs/command.md has the document of every verb', (t) => {
  const verbs = rowsUnder(COMMAND, ['verb', 'document']).flatMap(([names = '']) =>
    [...names.matchAll(/`([\w- ]+)`/g)].map(([, name]) => name),
  )
  t.strictSame(verbs.sort(), ALL_VERBS.map(({ name }) => name).sort())
  t.end()
})

await t.test('no document names a code that does not exist', (t) => {
  for (const document of DOCUMENTS) {
    const codes = read(document).match(/`DMLOOP_[A-Z_]+`/g) ?? []
    const unknown = codes.filter((code) => !(code.slice(1, -1) in POLICY))
    t.strictSame(unknown, [], document)
  }
  t.end()
})

await t.test('docs/api.md has every function, class and option', (t) => {
  const api = read('docs/api.md')
  for (const name of Object.keys(dmloop)) t.ok(api.includes(`\`${name}`), name)
  const documented = rowsUnder('docs/api.md', ['option', 'default', 'meaning']).flatMap(
    ([names = '']) => [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name),
  )
  const requests = [
    parseMapOptions('file', undefined),
    parseVerifyOptions(undefined),
    parseUnmapOptions(undefined),
    parseCreateOptions('file', { size: 512 }),
    parseProvisionOptions('file', undefined),
    parseStoreOptions('directory', undefined),
    parseStoreCreateOptions({ size: 512 }),
    parseExportBootOptions('systemd', undefined),
    parseLpExportOptions('file', undefined),
    parseLpImportOptions('file', undefined),
  ]
  const options = new Set(requests.flatMap((request) => Object.keys(request)))
  // The first arguments.
  for (const name of ['file', 'files', 'directory', 'image', 'kind', 'path']) options.delete(name)
  t.strictSame([...new Set(documented)].sort(), [...options].sort())
  t.end()
})

await t.test('links lead somewhere, and so do the names of files', (t) => {
  /** The anchors of the headings, as GitHub makes them. */
  const anchors = (document: string): string[] =>
    [...read(document).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replace(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    )
  for (const document of DOCUMENTS) {
    for (const [, link = ''] of read(document).matchAll(/\]\(([^)\s]+)\)/g)) {
      const [path = '', anchor] = link.split('#')
      const target = path === '' ? document : join(dirname(document), path)
      t.ok(existsSync(projectPath(target)), `${document}: ${link}`)
      if (anchor !== undefined) t.ok(anchors(target).includes(anchor), `${document}: ${link}`)
    }
    for (const [, path = ''] of read(document).matchAll(/`((?:test|bench|examples)\/[\w./-]+)`/g)) {
      t.ok(existsSync(projectPath(path)), `${document}: ${path}`)
    }
  }
  t.end()
})

/** What an example may use without making it. */
const GIVEN = `import type { MappedDevice } from 'dmloop'
declare global {
  const device: MappedDevice
}
`

await t.test('examples compile', (t) => {
  // In memory, and in the folder of the package, so that 'dmloop' is the package itself.
  const sources = new Map([[projectPath('docs/given.ts'), GIVEN]])
  for (const document of DOCUMENTS) {
    const examples = [...read(document).matchAll(/^```[jt]s\n([^]*?)^```$/gm)]
    for (const [index, [, source = '']] of examples.entries()) {
      sources.set(projectPath(`${document}.${index + 1}.ts`), `${source}\nexport {}\n`)
    }
  }
  t.ok(sources.size > 10, `${sources.size - 1} examples`)
  const options: ts.CompilerOptions = {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    types: ['node'],
  }
  const host = ts.createCompilerHost(options)
  const fileExists = host.fileExists.bind(host)
  const readFile = host.readFile.bind(host)
  host.fileExists = (path) => sources.has(path) || fileExists(path)
  host.readFile = (path) => sources.get(path) ?? readFile(path)
  const program = ts.createProgram([...sources.keys()], options, host)
  const errors = ts.getPreEmitDiagnostics(program)
  t.equal(ts.formatDiagnostics(errors, { ...host, getCanonicalFileName: (path) => path }), '')
  t.end()
})
