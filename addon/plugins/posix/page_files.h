// Does a storage directory hold pages of the file layout?
#pragma once

namespace hicache {

// True when one of its bucket folders (`00` to `ff`) has a regular file, or it has itself one that is named as a page is or ends in a record block. Our own
// files do not count, and neither do other programs'. Ends at the first page, and looks at few of many files that are none: it is asked at every opening.
// False too when the directory cannot be listed. Blocks.
bool holds_page_files(int directory);

}  // namespace hicache
