/** The extended attributes by which trees in overlayfs form and the private layer keep their own books. */

/** True for attributes that no appliance may see or set, and that no copy-up carries along. */
export function isInternal(name: string): boolean {
  return name.startsWith('trusted.overlay.') || name.startsWith('trusted.strata.');
}
