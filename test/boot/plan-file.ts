// A plan as JSON, to leave the guest.
import type { BootPlan } from '#lib/store/boot-files.js'

export const formatPlan = (plan: BootPlan): string =>
  JSON.stringify(plan, (_key, value: unknown) =>
    value instanceof Uint8Array ? { base64: Buffer.from(value).toString('base64') } : value,
  )

const isBytes = (value: unknown): value is { base64: string } =>
  typeof value === 'object' && value !== null && 'base64' in value

export const parsePlan = (text: string): BootPlan =>
  JSON.parse(text, (_key, value: unknown) =>
    isBytes(value) ? Buffer.from(value.base64, 'base64') : value,
  ) as BootPlan
