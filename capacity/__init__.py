"""How many tokens and bits an optimised input vector of a frozen language model holds.

resources      where data, papers and notebooks lie, in a checkout and in a wheel
files          written whole or not at all; what an error says in one line
harmless       what a terminal, page or chart may show of any text
extensions     what is added without editing: recipes, losses, sources, presets of one's own
theory         what could a vector hold at most (Eq. 1)?
metrics        rows in, numbers with intervals out: accuracy, decoding capacity, exact length
verdicts       does a claim hold by the rows, and which number decides?
gains          how many tokens and bits does a vector save, how many are about the text, and of which limit?
published      what do the papers' tables say?
scaling        what does capacity grow with? laws, their exponents and how far they foretell
provenance     on which machine, with which versions?
store          which rows are there? append, find again, survive
charts         how does it look? one function a figure
texts          which texts? named sources, exact lengths, seeds
report         a notebook and parameters in, an offline page out
models         which frozen model, and what are its facts?
decoding       what does a vector give back, teacher-forced and running free?
fitting        which vector gives this text back, and how long may the text be?
geometry       where do solutions lie?
connections    does what lies between two solutions hold the text?
coding         how many bytes does the model itself need?
vector_files   a text as a file of vectors
ledgers        which way of keeping a text takes how many bytes?
determinism    does a vector decode the same under other arithmetic, and where do fits err?
precision      how many bits does a dimension carry?
sweep          what is measured: grids, presets, what a sweep would take, cells to rows
baselines      what would a real prefix, a copy, or a vector of other texts do?
pretraining    how were the embedded models made?
ladder         what do models hold that were trained alike, at several widths and depths?
benchmark      how fast is all this?
names          which names can be given?
commands       what does each command do, and how does it begin and end? one line and an exit code
__main__       the command line
"""

__version__ = "0.1.0"
