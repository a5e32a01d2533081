// The scheduler of one emulated thread block: fibers, and what its threads wait for.
#include "block.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace clipfast {
namespace emulation {

Options options;
Block* current = nullptr;
long bank_conflicts = 0;

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr uint32_t kSharedBase = 1024;  // no pointer into shared memory has the address 0

// Stacks are kept from block to block; what the last fiber left poisoned there is cleared.
char* stack_of(unsigned index) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= index) stacks.emplace_back(new char[kStackBytes]);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stacks[index].get(), kStackBytes);
#endif
  return stacks[index].get();
}

void before_switch(void** save, const void* stack, size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(save, stack, size);
#else
  (void)save, (void)stack, (void)size;
#endif
}
void after_switch(void* saved, const void** stack, size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved, stack, size);
#else
  (void)saved, (void)stack, (void)size;
#endif
}

}  // namespace

void fail(const std::string& what) {
  std::fprintf(stderr, "emulation: %s", what.c_str());
  if (current) std::fprintf(stderr, " (block %u, thread %u)", current->block.x, current->thread().index);
  std::fprintf(stderr, "\n");
  std::_Exit(3);
}

void TransactionBarrier::arrive(long announced_bytes) {
  require(pending > 0, "mbarrier: more arrivals than it was initialised for");
  bytes += announced_bytes;
  --pending;
  end_phase_if_all_is_in();
}
void TransactionBarrier::complete(long done_bytes) {
  bytes -= done_bytes;
  end_phase_if_all_is_in();
}
void TransactionBarrier::end_phase_if_all_is_in() {
  require(bytes >= 0, "mbarrier: more bytes arrived than were announced");
  if (pending == 0 && bytes == 0) pending = arrivals, ++phase;
}

void Groups::add(std::function<void()> work) { open.push_back(std::move(work)); }
void Groups::commit() {
  closed.push_back(std::move(open));
  open.clear();
}
void Groups::wait(size_t pending) {
  while (closed.size() > pending) {
    for (auto& work : closed.front()) work();
    closed.erase(closed.begin());
  }
}

Block::Block(Index block, Index grid, int threads, int bytes)
    : block(block), grid(grid), size{static_cast<unsigned>(threads), 1, 1}, shared_bytes(bytes), threads_(threads) {
  require(threads % 32 == 0, "a block is made of whole warps");
  require(posix_memalign(reinterpret_cast<void**>(&shared), 1024, bytes) == 0, "out of memory");
  std::memset(shared, 0xff, bytes);  // NaN in every dtype: what is read before it is written shows
}
Block::~Block() { std::free(shared); }

void Block::enter() {
  Block& b = *emulation::current;
  const void* from = nullptr;
  size_t size = 0;
  after_switch(nullptr, &from, &size);
  if (b.home_stack_ == nullptr) b.home_stack_ = from, b.home_stack_size_ = size;  // the first thread comes from `run`
  b.kernel_();
  require(b.thread().copies.open.empty() && b.thread().products.open.empty(),
          "a thread ends with operations that it never committed");
  b.thread().done = true;
  b.go_on(true);
}

// The next thread that can run: a lane of the same warp if there is one, so that a warp runs as far ahead of the others as
// their synchronisation allows. When none can, the copy engine works; when all are done, null.
Thread* Block::next() {
  const size_t count = threads_.size();
  while (true) {
    size_t done = 0;
    for (size_t k = 0, first = turn_ / 32 * 32; k < count; ++k) {
      turn_ = (first + k) % count;
      Thread& t = threads_[options.descending ? (count - 1 - turn_) / 32 * 32 + turn_ % 32 : turn_];
      done += t.done;
      if (!t.done && (!t.ready || t.ready())) return &t;
    }
    if (done == count) return nullptr;
    if (engine.empty()) fail("deadlock: every thread waits");
    auto work = std::move(engine.front());
    engine.erase(engine.begin());
    work();
  }
}

// From the running thread to the next one, or back to `run` at the end. Returns when this thread's turn comes again.
void Block::go_on(bool last_time) {
  Thread& from = *current_;
  Thread* to = next();
  if (to) to->ready = nullptr;
  if (to == &from) return;
  current_ = to ? to : &from;
  before_switch(last_time ? nullptr : &from.fake_stack, to ? to->stack : home_stack_, to ? kStackBytes : home_stack_size_);
  swapcontext(&from.context, to ? &to->context : &home_);
  after_switch(from.fake_stack, nullptr, nullptr);
}

void Block::run(const std::function<void()>& kernel) {
  kernel_ = kernel;
  emulation::current = this;
  for (size_t k = 0; k < threads_.size(); ++k) {
    Thread& t = threads_[k];
    t.index = static_cast<unsigned>(k);
    t.stack = stack_of(t.index);
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack;
    t.context.uc_stack.ss_size = kStackBytes;
    makecontext(&t.context, &Block::enter, 0);
  }
  current_ = next();
  before_switch(&home_fake_stack_, current_->stack, kStackBytes);
  swapcontext(&home_, &current_->context);
  after_switch(home_fake_stack_, nullptr, nullptr);
  require(engine.empty(), "the block ends before the copies into its shared memory");
  emulation::current = nullptr;
}

void Block::wait_until(const std::function<bool()>& ready) {
  if (ready()) return;
  current_->ready = ready;
  go_on(false);
}

bool Block::meet(Meeting& m, const std::string& purpose, int expected) {
  if (m.arrived == 0) m.purpose = purpose, m.expected = expected;
  if (m.purpose != purpose || m.expected != expected) fail(purpose + ": other threads are at " + m.purpose);
  if (++m.arrived == expected) return true;
  const long round = m.round;
  wait_until([&m, round] { return m.round != round; });
  return false;
}
void Block::finish(Meeting& m) {
  m.arrived = 0;
  ++m.round;
}

void Block::sync(int barrier, int threads) {
  require(barrier >= 0 && barrier < 16 && threads % 32 == 0, "a block has barriers 0 to 15, for whole warps");
  Meeting& m = barriers_[barrier];
  if (meet(m, "barrier " + std::to_string(barrier) + " of " + std::to_string(threads), threads)) finish(m);
}

uint32_t Block::shared_offset(const void* pointer, size_t bytes, size_t alignment, const char* what) const {
  const char* at = static_cast<const char*>(pointer);
  if (at < shared || at + bytes > shared + shared_bytes) fail(std::string(what) + ": not in shared memory");
  const size_t offset = at - shared;
  if (offset % alignment != 0) fail(std::string(what) + ": address not aligned to " + std::to_string(alignment));
  return static_cast<uint32_t>(offset) + kSharedBase;
}

char* Block::shared_at(uint32_t address, size_t bytes) const {
  require(address >= kSharedBase && address + bytes <= kSharedBase + shared_bytes, "an address outside shared memory");
  return shared + (address - kSharedBase);
}

}  // namespace emulation
}  // namespace clipfast
