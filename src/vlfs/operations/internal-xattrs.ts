/** The extended attributes by which trees in overlayfs form and the private layer keep their own books. */
import { MARK_XATTR, WAS_XATTR } from '../policy/marks.ts';

/** True for attributes that no appliance may see or set. */
export function isInternal(name: string): boolean {
  return name.startsWith('trusted.overlay.') || name.startsWith('trusted.strata.');
}

/** True for attributes that a copy-up carries along: what programs see, and what tells clones what they may not. */
export function isCarried(name: string): boolean {
  return !isInternal(name) || name === MARK_XATTR || name === WAS_XATTR;
}
