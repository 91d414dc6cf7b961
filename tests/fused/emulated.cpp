// Calls functions of shared libraries, here, on the memory of another process (emulated.py), which asks for it through a pipe. A
// page is fetched where it is touched first; what a call has changed goes back when it is done, and then the pages are let go.
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

typedef uint64_t Word;
constexpr size_t PAGE = 4096;
struct Page {
  uint8_t *here, *before;
};
static std::vector<Page> pages;
static std::atomic_flag busy = ATOMIC_FLAG_INIT; // a library's threads may touch pages at once

static void get(void *to, size_t bytes) {
  for (ssize_t some; bytes; to = (char *)to + some, bytes -= some)
    if ((some = read(0, to, bytes)) <= 0) _exit(0);
}
static void put(const void *from, size_t bytes) {
  for (ssize_t some; bytes; from = (const char *)from + some, bytes -= some)
    if ((some = write(1, from, bytes)) <= 0) _exit(0);
}
static void say(char what, Word first, Word second) {
  put(&what, 1), put(&first, 8), put(&second, 8);
}
static Word word() {
  Word x;
  get(&x, 8);
  return x;
}
static uint8_t *room() {
  return (uint8_t *)mmap(nullptr, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void fetch(int, siginfo_t *what, void *) {
  uint8_t *at = (uint8_t *)(Word(what->si_addr) / PAGE * PAGE);
  while (busy.test_and_set()) {}
  bool there = false;
  for (const Page &page : pages) there |= page.here == at;
  if (!there) {
    uint8_t *fresh = room(), *before = room();
    say('p', Word(at), Word(what->si_addr)); // what there is at it, please
    get(fresh, PAGE);
    std::memcpy(before, fresh, PAGE);
    if (mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at) _exit(3);
    pages.push_back({at, before});
  }
  busy.clear();
}

static void let_go() {
  for (const Page &page : pages) {
    for (size_t i = 0, first; i < PAGE; i++) {
      for (first = i; i < PAGE && page.here[i] != page.before[i];) i++;
      if (i == first) continue;
      say('w', Word(page.here + first), i - first), put(page.here + first, i - first);
    }
    munmap(page.here, PAGE), munmap(page.before, PAGE);
  }
  pages.clear();
}

static Word call(Word function, const Word *x) {
  typedef Word (*Any)(Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word);
  return ((Any)function)(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14], x[15]);
}

int main() {
  struct sigaction on_fault {};
  on_fault.sa_sigaction = fetch, on_fault.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &on_fault, nullptr);
  for (;;) {
    char what, text[PAGE];
    get(&what, 1);
    Word first = word(), second = word(), words[16] = {};
    switch (what) {
    case 'l': // a library, of a path; nothing else is this program
    case 's': // a symbol of one, of a name
      get(text, second), text[second] = 0;
      first = what == 'l' ? Word(dlopen(text, RTLD_NOW)) : Word(dlsym((void *)first, text));
      say('r', first, first ? 0 : Word(dlerror()));
      break;
    case 't': // the text at an address here
      second = std::strlen((const char *)first);
      say('r', first, second), put((const char *)first, second);
      break;
    case 'c': // what a function returns for some arguments, 16 at most
      get(words, second);
      first = call(first, words);
      let_go();
      say('r', first, 0);
    }
  }
}
