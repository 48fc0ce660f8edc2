// How long it takes to make a device of a file, and to remove it.
import { mapFile, planFile, type MapOptions } from 'dmloop'
import { afterFork, milliseconds } from './measure.js'

export async function mapTimes(
  file: string,
  options: MapOptions,
): Promise<[map: number, unmap: number]> {
  let unmap = (): Promise<void> => Promise.resolve()
  const map = await afterFork(
    async () => {
      const device = await mapFile(file, { name: 'bench', ...options })
      unmap = () => device.unmap()
    },
    () => planFile(file),
  )
  return [map, await milliseconds(unmap)]
}
