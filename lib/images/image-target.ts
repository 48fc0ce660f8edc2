// The place of an image that is to be made: its names, what is there already, and what a killed process left.
import { createHash } from 'node:crypto'
import { lstat, readdir, readFile, realpath, unlink, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import debug from 'debug'
import { dmloopError, isSystemError } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { syncFolder } from '../kernel/path.js'

const log = debug('dmloop:image-target')

const isMissing = (error: unknown): boolean => isSystemError(error, 'ENOENT')

/** The number of a file of a split image, as its name ends with it. */
const numbered = (index: number): string => String(index).padStart(4, '0')

export class ImageTarget {
  readonly #folder: string
  /** The image's path, without symbolic links. */
  readonly path: string
  /** What the names of the temporary files start with: short enough whatever the image's own name. */
  readonly #prefix: string

  private constructor(path: string) {
    this.path = path
    this.#folder = dirname(path)
    const hash = createHash('sha256').update(basename(path)).digest('hex').slice(0, 16)
    this.#prefix = `.dmloop-${hash}.`
  }

  /** The place that a path names: a symbolic link to an image stands for that image. */
  static async of(file: string): Promise<ImageTarget> {
    const path = await realpath(file).catch(async (error: unknown) => {
      if (!isMissing(error)) throw error
      return join(await realpath(dirname(file)), basename(file))
    })
    return new ImageTarget(path)
  }

  /** The path of a file of the image until it is complete. */
  temporaryPath(index: number): string {
    return join(this.#folder, this.#prefix + numbered(index))
  }

  /** The paths of the files of the complete image, of which there are so many. */
  #paths(count: number): string[] {
    if (count === 1) return [this.path]
    return Array.from({ length: count }, (_, index) => this.#part(index))
  }

  #part(index: number): string {
    return `${this.path}.${numbered(index)}`
  }

  /**
   * The files of an image that is there under this name: one, or the parts of a split one, or both. Throws
   * DMLOOP_NOT_REGULAR_FILE for anything else.
   */
  async existing(): Promise<string[]> {
    const found: string[] = []
    if (await isThere(this.path)) found.push(this.path)
    for (let index = 0; await isThere(this.#part(index)); index++) found.push(this.#part(index))
    return found
  }

  /**
   * Removes the temporary files; the first one at last, because the caller has it locked. Where parts were
   * being given their names, those that have them belong to no image, until the first one has its own.
   */
  async removeTemporary(): Promise<void> {
    const count = await this.#countOfParts()
    if (!(await isThere(this.#part(0)))) {
      for (let index = 1; index < count; index++) await unlinkIfThere(this.#part(index))
    }
    const names = (await readdir(this.#folder)).filter((name) => name.startsWith(this.#prefix))
    log('%s: removing %o', this.path, names)
    for (const name of names.sort().reverse()) await unlink(join(this.#folder, name))
  }

  /** Removes the note of a process that was killed when all parts had their names. */
  async removeNote(): Promise<void> {
    await unlinkIfThere(this.#note)
  }

  /** Says how many parts are being given their names: there is no way to rename several files at once. */
  get #note(): string {
    return join(this.#folder, `${this.#prefix}parts`)
  }

  /** 0 where no parts are being given their names. */
  async #countOfParts(): Promise<number> {
    const text = await readFile(this.#note, 'utf8').catch((error: unknown) => {
      if (isMissing(error)) return ''
      throw error
    })
    const count = Number(text)
    return Number.isSafeInteger(count) ? count : 0
  }

  /**
   * Gives the temporary files, of which there are so many, their names, in place of the files of an old image.
   * Throws DMLOOP_IMAGE_EXISTS where another file has one of the names.
   */
  async publish(count: number, old: readonly string[]): Promise<string[]> {
    const paths = this.#paths(count)
    // A file is replaced in one step. Parts are not: no old one may be taken for one of the new image.
    const kept = count > 1 ? [] : old
    if (count > 1) {
      await writeFile(this.#note, `${Math.max(count, old.length)}\n`, { flag: 'wx' })
      for (const path of old) await unlink(path)
    }
    for (const [index, path] of [...paths.entries()].reverse()) {
      await rename(this.temporaryPath(index), path, kept.includes(path))
    }
    await this.removeNote()
    for (const path of kept.filter((each) => !paths.includes(each))) await unlink(path)
    await syncFolder(this.#folder)
    return paths
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    if ((await lstat(path)).isFile()) return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
  throw dmloopError('DMLOOP_NOT_REGULAR_FILE', { file: path })
}

async function unlinkIfThere(path: string): Promise<void> {
  await unlink(path).catch((error: unknown) => {
    if (!isMissing(error)) throw error
  })
}

async function rename(from: string, to: string, replace: boolean): Promise<void> {
  try {
    await result(native.rename(from, to, replace), to)
  } catch (error) {
    if (isSystemError(error, 'EEXIST')) throw dmloopError('DMLOOP_IMAGE_EXISTS', { file: to })
    // A filesystem that cannot rename without replacing.
    if (replace || !isSystemError(error, 'EINVAL', 'ENOSYS')) throw error
    if (await isThere(to)) throw dmloopError('DMLOOP_IMAGE_EXISTS', { file: to })
    await result(native.rename(from, to, true), to)
  }
}
