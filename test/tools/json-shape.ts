// Whether the JSON that the command prints is of the type that lib/cli/json.ts declares for it.
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const MODULE = fileURLToPath(new URL('../../../dist/cli/json.d.ts', import.meta.url))
const program = ts.createProgram([MODULE], {
  strict: true,
  exactOptionalPropertyTypes: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts'],
  module: ts.ModuleKind.NodeNext,
  types: [],
})
const checker = program.getTypeChecker()
const source = program.getSourceFile(MODULE)
if (!source) throw new Error(`${MODULE} is not there: npm run build`)

/** Each exported interface by its name. */
const types = new Map<string, ts.Type>()
ts.forEachChild(source, (node) => {
  if (ts.isInterfaceDeclaration(node)) types.set(node.name.text, checker.getTypeAtLocation(node))
})

function typeOf(name: string): ts.Type {
  const type = types.get(name)
  if (type) return type
  const verb = types.get('Documents')?.getProperty(name)
  if (!verb) throw new Error(`lib/cli/json.ts has no type ${name}`)
  return checker.getTypeOfSymbol(verb)
}

/** What of a value is not of a type: that of a verb's document, or an interface of lib/cli/json.ts. */
export const misfits = (name: string, value: unknown): string[] =>
  findMisfits(typeOf(name), value, name)

function findMisfits(type: ts.Type, value: unknown, path: string): string[] {
  const wrong = [`${path}: ${JSON.stringify(value)} is not ${checker.typeToString(type)}`]
  if (type.isUnion()) {
    const found = type.types.map((each) => findMisfits(each, value, path))
    const [fewest = wrong] = found.sort((a, b) => a.length - b.length)
    return fewest
  }
  if (type.isStringLiteral() || type.isNumberLiteral()) return value === type.value ? [] : wrong
  if (type.flags & ts.TypeFlags.BooleanLiteral) {
    return String(value) === checker.typeToString(type) && typeof value === 'boolean' ? [] : wrong
  }
  if (type.flags & ts.TypeFlags.String) return typeof value === 'string' ? [] : wrong
  if (type.flags & ts.TypeFlags.Number) return Number.isFinite(value) ? [] : wrong
  if (type.flags & ts.TypeFlags.Undefined) return value === undefined ? [] : wrong
  if (checker.isArrayType(type)) {
    if (!Array.isArray(value)) return wrong
    const [item] = checker.getTypeArguments(type as ts.TypeReference)
    return value.flatMap((each, at) => (item ? findMisfits(item, each, `${path}[${at}]`) : wrong))
  }
  const isObject = (type.flags & (ts.TypeFlags.Object | ts.TypeFlags.Intersection)) !== 0
  if (!isObject || typeof value !== 'object' || value === null) return wrong
  return findPropertyMisfits(type, value as Record<string, unknown>, path)
}

function findPropertyMisfits(
  type: ts.Type,
  value: Record<string, unknown>,
  path: string,
): string[] {
  const properties = checker.getPropertiesOfType(type)
  const known = new Set(properties.map(({ name }) => name))
  const unknown = Object.keys(value).filter((key) => !known.has(key))
  return [
    ...unknown.map((key) => `${path}.${key}: is not in the type`),
    ...properties.flatMap((property) => {
      const { name, flags } = property
      if (!(name in value)) {
        return flags & ts.SymbolFlags.Optional ? [] : [`${path}.${name}: is missing`]
      }
      return findMisfits(checker.getTypeOfSymbol(property), value[name], `${path}.${name}`)
    }),
  ]
}
