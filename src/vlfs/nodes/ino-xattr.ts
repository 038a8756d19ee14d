/** `trusted.strata.ino`: the st_ino of an object that was copied up, 8 bytes, little-endian. */

export const INO_XATTR = 'trusted.strata.ino';

/** The number in the attribute's value, or 0. */
export function decodeIno(value: Uint8Array | number): number {
  if (typeof value === 'number' || value.length !== 8) return 0;
  const view = new DataView(value.buffer, value.byteOffset, 8);
  const ino = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  return Number.isSafeInteger(ino) ? ino : 0;
}

export function encodeIno(ino: number): Uint8Array {
  const value = new Uint8Array(8);
  const view = new DataView(value.buffer);
  view.setUint32(0, ino % 2 ** 32, true);
  view.setUint32(4, Math.floor(ino / 2 ** 32), true);
  return value;
}
