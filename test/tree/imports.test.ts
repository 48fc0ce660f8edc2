// No circle among the imports of the project's own modules, types included.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

const modules = ['lib', 'vm', 'bench', 'examples', 'test'].flatMap((folder) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => join(folder, path)),
)

/** The modules that one imports, as paths from the project's root. */
function importsOf(module: string): string[] {
  const { importedFiles } = ts.preProcessFile(readFileSync(join(ROOT, module), 'utf8'))
  return importedFiles.flatMap(({ fileName }) => {
    const path = fileName.startsWith('#lib/')
      ? fileName.replace('#', '')
      : fileName.startsWith('.')
        ? join(dirname(module), fileName)
        : fileName === 'dmloop'
          ? 'lib/index.js'
          : undefined
    return path === undefined ? [] : [relative('.', path).replace(/\.js$/, '.ts')]
  })
}

const graph = new Map(modules.map((module) => [module, importsOf(module)]))

function findCircle(): string[] | undefined {
  const done = new Set<string>()
  const visit = (module: string, path: readonly string[]): string[] | undefined => {
    if (path.includes(module)) return [...path.slice(path.indexOf(module)), module]
    if (done.has(module)) return undefined
    for (const next of graph.get(module) ?? []) {
      const circle = visit(next, [...path, module])
      if (circle) return circle
    }
    done.add(module)
    return undefined
  }
  for (const module of modules) {
    const circle = visit(module, [])
    if (circle) return circle
  }
  return undefined
}

t.ok(graph.get('lib/map-file.ts')?.includes('lib/guard.ts'), 'imports are found')
t.equal(findCircle()?.join(' -> '), undefined, 'there is no circle')
t.strictSame(
  [...graph.values()].flat().filter((module) => !graph.has(module)),
  [],
  'every import is one of the modules',
)
