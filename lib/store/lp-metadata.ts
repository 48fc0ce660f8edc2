// Android's logical partition metadata, the table of a super partition, from version 10.0 to 10.2: bytes to an object,
// and back.
export { decodeLpGeometry, decodeLpMetadata, type LpSource } from './lp-decode.js'
export { encodeLpMetadata, lpCopySize } from './lp-encode.js'
export { LARGEST_AREA, LP_GEOMETRY_END, lpAreaSize } from './lp-layout.js'
export {
  LP_FILE_GEOMETRY,
  type LpAttribute,
  type LpBlockDevice,
  type LpExtent,
  type LpForm,
  type LpGeometry,
  type LpGroup,
  type LpMetadata,
  type LpMinorVersion,
  type LpPartition,
} from './lp-model.js'
