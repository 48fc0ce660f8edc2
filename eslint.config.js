import eslint from '@eslint/js'
import tseslint from 'typescript-eslint'

/** Forbids imports whose path starts with a pattern. */
const restrictImports = (pattern, message) => ({
  '@typescript-eslint/no-restricted-imports': [
    'error',
    { patterns: [{ regex: `^${pattern.replaceAll('.', '\\.')}`, message }] },
  ],
})

export default tseslint.config(
  { ignores: ['build', 'dist', 'out', '.tap'] },
  eslint.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { project: ['tsconfig.json', 'tsconfig.dev.json'] },
    },
    rules: {
      // Numbers in messages are what they look like.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      // A void arrow function as a one-line callback is clear as it is.
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      // `_` takes what is left out of an object.
      '@typescript-eslint/no-unused-vars': [
        'error',
        {
          varsIgnorePattern: '^_$',
          argsIgnorePattern: '^_$',
          destructuredArrayIgnorePattern: '^_$',
          ignoreRestSiblings: true,
        },
      ],
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
    },
  },
  // The storeys of lib/: imports point only downward. lib/store/, lib/images/ and lib/*.ts may import plan/
  // and kernel/.
  {
    files: ['lib/plan/**/*.ts'],
    rules: restrictImports('../(?!kernel/)', 'lib/plan/ imports from lib/kernel/ and itself only.'),
  },
  {
    files: ['lib/kernel/**/*.ts'],
    rules: restrictImports('../', 'lib/kernel/ imports from itself only.'),
  },
  {
    files: ['lib/*.ts'],
    ignores: ['lib/index.ts'],
    rules: restrictImports(
      './(images|store|cli)/',
      'Only lib/index.ts imports from lib/images/ and lib/store/.',
    ),
  },
  {
    files: ['lib/images/**/*.ts'],
    rules: restrictImports(
      '../(index|cli/|store/)',
      'lib/images/ does not import from lib/store/, lib/cli/ or the index.',
    ),
  },
  {
    files: ['lib/store/**/*.ts'],
    rules: restrictImports(
      '../(index|cli/)',
      'lib/store/ does not import from lib/cli/ or the index.',
    ),
  },
  {
    files: ['lib/cli/*.ts'],
    rules: restrictImports('../(?!index)', 'lib/cli/ uses what every user of the library gets.'),
  },
  {
    files: ['lib/cli/*/*.ts'],
    rules: restrictImports('../../(?!index)', 'lib/cli/ uses what every user of the library gets.'),
  },
  {
    files: ['**/*.js', '**/*.mjs'],
    languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } },
  },
)
