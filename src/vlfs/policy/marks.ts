/**
 * What an object itself says to a policy, in extended attributes of the private layer:
 *   user.strata.nonclonable     set inside, by who owns the file or directory; any value
 *   trusted.strata.nonclonable  set from outside (`strata policy mark`), or by the VLFS when a program moves or links something out of an excluded place;
 *                               a program can neither see nor remove it
 *   trusted.strata.was          on a renamed directory: its former paths, separated by NUL, where rules say more below them than below the new one
 * No clone shows a marked object. The trusted ones go along with every copy-up.
 */

export const USER_MARK = 'user.strata.nonclonable';
export const MARK_XATTR = 'trusted.strata.nonclonable';
export const WAS_XATTR = 'trusted.strata.was';
export const REDIRECT = 'trusted.overlay.redirect';

export function isMarked(xattrs: ReadonlyMap<string, Uint8Array>): boolean {
  return xattrs.has(MARK_XATTR) || xattrs.has(USER_MARK);
}
