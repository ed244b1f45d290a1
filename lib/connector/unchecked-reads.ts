/**
 * An option of HiCacheNixl.open() for `bench` alone, which shows with it what checking costs: reads do not compute the payload's checksum, so damaged bytes come back as
 * a hit (`verified: false`); length and key are still compared, and writes compute it as ever. Nothing else has this key: the symbol is made anew in each
 * process, no configuration and no environment variable leads to it, and the package exports neither it nor this file.
 */
export const UNCHECKED_READS: unique symbol = Symbol('unchecked reads')

/** Options that may have it. */
export interface UncheckedReads { readonly [UNCHECKED_READS]?: boolean }
