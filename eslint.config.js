import { defineConfig } from 'eslint/config'
import tseslint from 'typescript-eslint'

/** Rules of ESLint itself that find mistakes and that neither the compiler nor typescript-eslint has. */
const mistakes = Object.fromEntries([
  'array-callback-return', 'default-case-last', 'for-direction', 'grouped-accessor-pairs', 'no-alert', 'no-async-promise-executor', 'no-caller', 'no-compare-neg-zero',
  'no-cond-assign', 'no-constant-binary-expression', 'no-constructor-return', 'no-control-regex', 'no-debugger', 'no-dupe-else-if', 'no-duplicate-case',
  'no-empty-character-class', 'no-empty-pattern', 'no-eval', 'no-ex-assign', 'no-extend-native', 'no-extra-bind', 'no-fallthrough', 'no-invalid-regexp',
  'no-irregular-whitespace', 'no-labels', 'no-lone-blocks', 'no-loss-of-precision', 'no-misleading-character-class', 'no-new-func', 'no-new-wrappers', 'no-octal-escape',
  'no-proto', 'no-prototype-builtins', 'no-regex-spaces', 'no-self-assign', 'no-self-compare', 'no-sequences', 'no-shadow-restricted-names', 'no-sparse-arrays',
  'no-template-curly-in-string', 'no-unreachable', 'no-unsafe-finally', 'no-unsafe-optional-chaining', 'no-unused-labels',
  'no-useless-backreference', 'no-useless-catch', 'no-useless-escape', 'no-useless-rename', 'no-useless-return', 'no-var', 'no-with', 'object-shorthand', 'prefer-const',
  'prefer-object-has-own', 'require-yield', 'use-isnan', 'valid-typeof'
].map((rule) => [rule, 'error']))

export default defineConfig(
  { ignores: ['dist/', 'build/', 'prebuilds/', 'node_modules/', 'lib/keys/kernel/assembly/', '**/*.generated.*'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error', reportUnusedInlineConfigs: 'error' } },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      ...mistakes,
      eqeqeq: ['error', 'always'],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports', disallowTypeAnnotations: false }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      // An index that the code around it has checked: noUncheckedIndexedAccess asks, `!` answers.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // `if (wrong) return finish(outcome)` in a function that returns nothing is the house's way to end early.
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true, ignoreVoidReturningFunctions: true }],
      // Arguments come from JavaScript too: what the types exclude is checked all the same.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrorsIgnorePattern: '^_' }],
      '@typescript-eslint/prefer-literal-enum-member': 'off'
    }
  },
  {
    // A library says nothing on its own: what it has to say goes to the injected logger, and a command writes to the streams that it was given.
    files: ['lib/**/*.ts', 'workers/**/*.ts'],
    rules: { 'no-console': 'error' }
  },
  {
    // chai's assertions are property reads; a String object is an argument that the library has to refuse; a helper that compares types has parameters
    // for nothing else.
    files: ['spec/**/*.ts'],
    rules: { '@typescript-eslint/no-unused-expressions': 'off', 'no-new-wrappers': 'off', '@typescript-eslint/no-unnecessary-type-parameters': 'off' }
  },
  {
    // No part of the TypeScript project: the consumer compiles against the packed declarations, not against the sources.
    files: ['**/*.mjs', '**/*.js', 'scripts/tarball/*'],
    extends: [tseslint.configs.disableTypeChecked]
  }
)
