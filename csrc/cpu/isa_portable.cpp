// The loops for the compiler's own default: the fallback, and the only set on machines that are not x86-64.
#include "tile.h"

namespace clipfast {
namespace portable {
#include "loops.h"
}
const Loops kPortableLoops = CLIPFAST_LOOPS(portable, "portable");
}  // namespace clipfast
